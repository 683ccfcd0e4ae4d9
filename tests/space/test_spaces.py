import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tvmfbnet.errors import ConfigError, StorageError, UserError
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.counts import convs_of, distinct_convs
from tvmfbnet.space.registry import list_spaces, load_space
from tvmfbnet.space.space import NetPart, Space, content_key
from tvmfbnet.space.starter import starter_space


def test_the_shipped_spaces_are_listed_and_load() -> None:
    assert list_spaces() == ["fbnet", "fbnet_cifar", "fbnet_mini", "mobile_se"]
    for name in list_spaces():
        space = load_space(name)
        assert space.name == name
        assert space.description


def test_fbnet_has_the_papers_shape() -> None:
    space = load_space("fbnet")
    assert len(space.layers) == 22
    assert space.stage_sizes == (1, 4, 4, 4, 4, 4, 1)
    assert space.size == 9**22
    assert (space.layers[-1].cin, space.layers[-1].cout, space.layers[-1].height) == (184, 352, 7)
    assert space.stem == NetPart("stem", "conv_k3", 3, 16, 224, 224, 2)
    assert space.head == (
        NetPart("head_conv", "conv_k1", 352, 1504, 7, 7, 1),
        NetPart("head_pool", "avgpool", 1504, 1504, 7, 7, 1),
        NetPart("head_linear", "linear", 1504, 1000, 1, 1, 1),
    )


def test_fbnet_has_102_distinct_blocks_of_138_distinct_fused_convs() -> None:
    space = load_space("fbnet")
    blocks = space.distinct_blocks()
    assert len(blocks) == len(set(blocks)) == 102
    assert sum(part.block == "skip" for part in blocks) == 6
    convs = distinct_convs(space)

    def skip(conv: Conv) -> bool:
        return any(convs_of(part) == (conv,) for part in blocks if part.block == "skip")

    assert len(convs) == 138
    assert sum(conv.kind == "depthwise" for conv in convs) == 60
    assert sum(conv.kind == "pointwise" and not conv.relu for conv in convs) == 48
    assert sum(skip(conv) for conv in convs) == 6
    assert sum(conv.kind == "pointwise" and conv.relu and not skip(conv) for conv in convs) == 24


def test_fbnet_cifar_and_mini_end_at_4x4_pixels() -> None:
    cifar, mini = load_space("fbnet_cifar"), load_space("fbnet_mini")
    assert [layer.stride for layer in cifar.layers if layer.stride > 1] == [2, 2, 2]
    assert cifar.stage_sizes == (1, 4, 4, 4, 4, 4, 1)
    assert cifar.head[0] == NetPart("head_conv", "conv_k1", 352, 1504, 4, 4, 1)
    assert mini.stage_sizes == (2, 3, 2)
    assert mini.input_channels == 1
    assert mini.head[0] == NetPart("head_conv", "conv_k1", 64, 128, 4, 4, 1)


@pytest.mark.parametrize("name", list_spaces())
def test_each_parts_output_is_the_next_parts_input(name: str) -> None:
    space = load_space(name)
    parts = [space.stem, *(layer.cell(layer.blocks[0]) for layer in space.layers), *space.head]
    for before, after in pairwise(parts):
        assert (before.cout, before.out_height, before.out_width) == (after.cin, after.height, after.width)


def test_part_names_and_slugs_are_unique_and_safe() -> None:
    parts = load_space("fbnet").distinct_parts()
    assert len({part.name for part in parts}) == len({part.slug for part in parts}) == len(parts) == 106
    assert not any("/" in part.slug for part in parts)
    assert load_space("fbnet_mini").layers[5].cell("k3_e6").name == "block/k3_e6/32-64/8x8/s2"


def test_parts_and_spaces_survive_json() -> None:
    space = load_space("fbnet_mini")
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert all(NetPart.from_dict(json.loads(json.dumps(part.to_dict()))) == part for part in space.distinct_parts())


def test_an_identity_skip_is_no_part_but_a_projecting_skip_is() -> None:
    space = load_space("fbnet_mini")
    assert space.layers[0].part("skip") is None
    assert space.layers[0].cell("skip").is_identity
    part = space.layers[2].part("skip")
    assert part is not None
    assert (part.stride, part.has_residual) == (2, False)
    residual = space.layers[0].part("k3_e1")
    assert residual is not None
    assert residual.has_residual


def test_an_unknown_space_lists_what_there_is_and_the_closest() -> None:
    with pytest.raises(UserError, match=r"did you mean fbnet_mini\?.*fbnet, fbnet_cifar, fbnet_mini, mobile_se"):
        load_space("fbnet_mni")


CUSTOM = {
    "description": "own",
    "input": {"channels": 3, "height": 64, "width": 48},
    "classes": 5,
    "stem": {"channels": 8, "stride": 2},
    "stages": [
        {"channels": 8, "layers": 1, "blocks": ["k7_e2", "skip"]},
        {"channels": 24, "layers": 2, "stride": 2},
    ],
    "blocks": ["k3_e4_g4", "k5_e1_g1"],
    "last_channels": 64,
}


def write(path: Path, **changes: object) -> str:
    path.write_text(yaml.safe_dump({**CUSTOM, **changes}))
    return str(path)


def test_a_users_own_space_may_have_other_channels_depths_and_kernels(tmp_path: Path) -> None:
    space = load_space(write(tmp_path / "own.yaml"))
    assert space.name == "own"
    assert space.size == 2**3
    assert space.layers[0].blocks == ("k7_e2", "skip")
    assert space.layers[1].blocks == ("k3_e4_g4", "k5_e1")
    assert (space.layers[2].height, space.layers[2].width) == (16, 12)


def test_all_problems_of_a_space_file_are_reported_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "bad.yaml",
        input={"channels": 0, "height": 64, "width": 48},
        blocks=["k4_e1", "k3_e1", "k3_e1_g1"],
        last_channels="many",
        colour="red",
    )
    with pytest.raises(ConfigError) as caught:
        load_space(file)
    message = str(caught.value)
    for place in ("input.channels", "blocks.0", "odd kernel", "last_channels", "colour"):
        assert place in message
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks": ["k3_e1", "k3_e1_g1"]}, "k3_e1 listed more than once"),
        ({"blocks": ["k3_e1_g5"]}, "5 groups, which does not divide its 8 input and 24 output"),
        ({"blocks": []}, "blocks"),
        ({"stages": []}, "stages"),
        ({"stages": [{"channels": 8, "layers": 0}]}, r"stages.0.layers"),
        ({"stages": [{"channels": 8, "layers": 1, "stride": 2}] * 8}, "leaves no image"),
        ({"stem": None}, "stem"),
        ({"classes": -1}, "classes"),
    ],
)
def test_a_malformed_space_says_what_is_wrong_and_where(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    file = write(tmp_path / "bad.yaml", **changes)
    with pytest.raises(ConfigError, match=said) as caught:
        load_space(file)
    assert file in str(caught.value)


def test_a_space_file_that_is_missing_or_no_yaml_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.yaml"):
        load_space(str(tmp_path / "absent.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("stages: [1,\nb: {")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_space(str(broken))


def test_a_product_of_kernels_and_expansions_spells_out_its_blocks(tmp_path: Path) -> None:
    product = {"kernels": [3, 7], "expansions": [1, 6], "squeeze_excite": [False, True], "activations": ["hswish"]}
    space = load_space(write(tmp_path / "own.yaml", blocks={**product, "skip": True}))
    assert len(space.layers[1].blocks) == 9
    assert {"k3_e1_hswish", "k7_e6_se_hswish", "skip"} <= set(space.layers[1].blocks)
    assert space.layers[1].blocks[-1] == "skip"


def test_single_layers_of_a_stage_may_have_candidates_of_their_own(tmp_path: Path) -> None:
    stage = {
        "channels": 24,
        "layers": 3,
        "stride": 2,
        "layer_blocks": {0: ["k3_e6"], 2: {"kernels": [5], "expansions": [2]}},
    }
    space = load_space(write(tmp_path / "own.yaml", stages=[stage]))
    assert [layer.blocks for layer in space.layers] == [("k3_e6",), ("k3_e4_g4", "k5_e1"), ("k5_e2",)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks": {"kernels": [4], "expansions": [1]}}, "odd kernel"),
        ({"blocks": {"kernels": [], "expansions": [1]}}, "kernels"),
        ({"blocks": {"kernels": [3], "expansions": [1], "activations": ["tanh"]}}, "k3_e1_tanh"),
        ({"blocks": {"kernels": [3, 3], "expansions": [1]}}, "k3_e1 listed more than once"),
        ({"stages": [{"channels": 8, "layers": 2, "layer_blocks": {2: ["skip"]}}]}, "layers are 0 to 1"),
    ],
)
def test_wrong_candidates_are_told(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_space(write(tmp_path / "bad.yaml", **changes))


def test_a_resolution_may_be_asked_for_with_the_name(tmp_path: Path) -> None:
    space = load_space("fbnet@160x128")
    assert (space.name, space.height, space.width) == ("fbnet@160x128", 160, 128)
    assert (space.layers[-1].height, space.layers[-1].width) == (5, 4)
    assert load_space(write(tmp_path / "own.yaml") + "@96").width == 96
    with pytest.raises(UserError, match="write @160"):
        load_space("fbnet@large")
    with pytest.raises(ConfigError, match=r"input\.height"):
        load_space("fbnet@0")


def test_the_mobile_space_uses_what_goes_beyond_the_paper() -> None:
    blocks = {block for layer in load_space("mobile_se").layers for block in layer.blocks}
    assert {"k7_e6_se_hswish", "k5_e3_se", "k3_e2", "k3_e4_hswish"} <= blocks


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (28, 28), (32, 64), (64, 64), (224, 224), (600, 800)])
def test_a_starter_space_fits_any_image(size, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(starter_space(3, *size, channels=3))
    space = load_space(str(path))
    assert (space.classes, space.input_channels, space.height, space.width) == (3, 3, *size)
    assert all(min(layer.height, layer.width) >= min(4, *size) for layer in space.layers)
    assert min(size) < 16 or space.size > 100


def test_a_space_is_known_by_its_content_not_by_its_name() -> None:
    space = load_space("fbnet_mini")
    assert content_key(replace(space, name="other", description="other")) == content_key(space)
    assert content_key(Space.from_dict(json.loads(json.dumps(space.to_dict())))) == content_key(space)
    first, *later = space.layers
    others = [
        replace(space, classes=space.classes + 1),
        replace(space, height=space.height + 1),
        replace(space, layers=(replace(first, blocks=first.blocks[::-1]), *later)),
        load_space("fbnet"),
    ]
    assert len({content_key(other) for other in (space, *others)}) == len(others) + 1
