import pytest

from tvmfbnet.errors import ArchError
from tvmfbnet.space.blocks import FBNET_BLOCKS, SKIP, BlockSpec, canonical_block, parse_block


def test_every_block_of_the_paper_reads_back_as_its_own_name() -> None:
    for name in FBNET_BLOCKS:
        spec = parse_block(name)
        assert name == SKIP if spec is None else spec.name == name
    assert len(set(FBNET_BLOCKS)) == 9


def test_blocks_beyond_the_paper_are_allowed() -> None:
    assert parse_block("k7_e4_g4") == BlockSpec(7, 4, 4)
    assert canonical_block("k3_e1_g1") == "k3_e1"
    assert parse_block("k5_e6_g2_se_hswish") == BlockSpec(5, 6, 2, True, "hswish")
    assert canonical_block("k5_e6_se_relu") == "k5_e6_se"


@pytest.mark.parametrize("name", ["k3_e1_hswish_se", "k3_e1_tanh", "k3_e1_se_se"])
def test_the_parts_of_a_name_have_one_order(name: str) -> None:
    with pytest.raises(ArchError, match="k5_e3_se_hswish"):
        canonical_block(name)


@pytest.mark.parametrize(
    "name", ["", "k4_e1", "k3", "k3_e0", "k3_e1_g0", "K3_e1", "k3_e1 ", "conv", "k3_e1_g2_x", "k03_e1"]
)
def test_an_unknown_block_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ArchError, match="odd kernel") as caught:
        parse_block(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
