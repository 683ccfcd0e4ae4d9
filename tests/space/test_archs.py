import json
import random
from pathlib import Path

import pytest

from tvmfbnet.errors import ArchError
from tvmfbnet.space.arch import NAMED_ARCHS, Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch, resolve_arch
from tvmfbnet.space.counts import Counts, convs_of, count_arch, count_part, describe_arch
from tvmfbnet.space.registry import list_spaces, load_space
from tvmfbnet.space.space import NetPart

ORACLES = json.loads((Path(__file__).parent / "oracles.json").read_text())
MINI = "k3_e1,skip/k5_e3,skip,k3_e6/k5_e1_g2,skip"


@pytest.mark.parametrize("name", ["fbnet_a", "fbnet_c"])
def test_params_and_macs_equal_the_published_nets_to_the_unit(name: str) -> None:
    oracle = ORACLES[name]
    arch, space = resolve_arch(name, load_space("fbnet"))
    assert list(arch.blocks) == oracle["ops"]
    assert space.last_channels == oracle["last"]
    assert count_arch(arch, space) == Counts(oracle["params"], oracle["macs"])
    described = describe_arch(arch, space)
    assert (described["params"], described["macs"]) == (oracle["params"], oracle["macs"])
    assert len(described["layers"]) == len(oracle["layers"]) == 22
    for row, expected in zip(described["layers"], oracle["layers"], strict=True):
        assert row["block"] == expected["op"]
        for key, other in (("cin", "cin"), ("cout", "cout"), ("height", "h_in"), ("stride", "stride")):
            assert row[key] == expected[other]
        assert (row["params"], row["macs"]) == (expected["params"], expected["macs"])
    fixed = [described["stem"], *described["head"]]
    assert sum(row["params"] for row in described["layers"] + fixed) == oracle["params"]


def test_the_counts_of_a_grouped_block_by_hand() -> None:
    part = NetPart("block", "k3_e1_g2", 112, 112, 14, 14, 1)
    assert [conv.groups for conv in convs_of(part)] == [2, 112, 2]
    params = 2 * (112 * 112 // 2) + 9 * 112 + 3 * 2 * 112
    assert count_part(part) == Counts(params, (2 * (112 * 112 // 2) + 9 * 112) * 14 * 14)


def test_an_odd_size_rounds_up_under_a_stride() -> None:
    part = NetPart("block", "k3_e1", 8, 16, 7, 5, 2)
    assert (part.out_height, part.out_width) == (4, 3)
    assert count_part(part).macs == 8 * 8 * 35 + (9 * 8 + 8 * 16) * 12


@pytest.mark.parametrize("name", list_spaces())
def test_every_arch_string_reads_back_as_the_same_arch(name: str) -> None:
    space, rng = load_space(name), random.Random(7)
    for _ in range(50):
        arch = Arch(tuple(rng.choice(layer.blocks) for layer in space.layers))
        text = format_arch(arch, space)
        assert parse_arch(text, space) == arch
        assert not set(text) & set(" '\"$&|;()<>*?\\`")


def test_a_strange_spelling_becomes_canonical() -> None:
    space = load_space("fbnet_mini")
    assert format_arch(parse_arch(MINI.replace("k3_e1,", " k3_e1_g1 , "), space), space) == MINI


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1 stage, space fbnet_mini has 3"),
        ("k3_e1", "1 stage, space fbnet_mini has 3"),
        (MINI + "/skip", "4 stages, space fbnet_mini has 3"),
        ("k3_e1/k5_e3,skip,k3_e6/k5_e1_g2,skip", "stage 1 of 3 has 1 block, space fbnet_mini wants 2"),
        (MINI.replace("k5_e3", "k5_e33"), "layer 2 .stage 2.*k5_e33 is no candidate there.*closest: k5_e3"),
        (MINI.replace("k5_e3", "nonsense"), "layer 2 .stage 2.*unknown block 'nonsense'"),
        (MINI.replace("k5_e3", ""), "unknown block ''"),
    ],
)
def test_a_wrong_arch_is_one_line_that_says_where(text: str, said: str) -> None:
    with pytest.raises(ArchError, match=said) as caught:
        parse_arch(text, load_space("fbnet_mini"))
    assert "\n" not in str(caught.value)


def test_a_named_arch_brings_its_last_channels_and_a_string_keeps_the_spaces() -> None:
    space = load_space("fbnet")
    arch, with_name = resolve_arch("FBNet-C", space)
    assert with_name.last_channels == NAMED_ARCHS["fbnet_c"].last_channels == 1984
    again, unchanged = resolve_arch(format_arch(arch, space), space)
    assert (again, unchanged) == (arch, space)


def test_an_unknown_or_unfitting_name_is_refused() -> None:
    with pytest.raises(ArchError, match="did you mean fbnet_c"):
        resolve_arch("fbnet_cc", load_space("fbnet"))
    with pytest.raises(ArchError, match="fbnet_a does not fit space fbnet_mini"):
        resolve_arch("fbnet_a", load_space("fbnet_mini"))


def test_an_arch_of_another_space_cannot_be_formatted() -> None:
    with pytest.raises(ArchError, match="22 blocks, space fbnet_mini has 7"):
        format_arch(Arch(NAMED_ARCHS["fbnet_a"].blocks), load_space("fbnet_mini"))


def test_the_parts_of_an_arch_run_from_stem_to_head_without_identity_skips() -> None:
    space = load_space("fbnet_mini")
    parts = space.parts_of(parse_arch(MINI, space))
    assert [part.block for part in parts] == [
        *("conv_k3", "k3_e1", "k5_e3", "k3_e6", "k5_e1_g2"),
        *("conv_k1", "avgpool", "linear"),
    ]
