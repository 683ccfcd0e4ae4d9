"""LR-ASPP on a backbone: parts that add up to the net, shapes at every size, weights that a supernet hands over."""

from itertools import pairwise

import pytest
import torch

from tvmfbnet.errors import ConfigError, UserError
from tvmfbnet.nets.blocks import build_part, input_shape
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.heads import anchors_of, feature_maps, head_maps
from tvmfbnet.space.registry import load_space, spelled_like, spelled_with_classes, spelled_with_head
from tvmfbnet.space.space import Space, content_key
from tvmfbnet.training.classes import fit_classes

SPELLED = "fbnet_mini@64,classes=11,head=lraspp"
ARCH = Arch(("k3_e1", "skip", "k5_e3", "k3_e1", "skip", "k3_e6", "k3_e3"))


def test_the_feature_maps_of_a_backbone_are_the_last_of_each_stride():
    maps = feature_maps(load_space("fbnet@224"))
    assert [each.stride for each in maps] == [2, 4, 8, 16, 32] and maps[-1].channels == 352
    assert [each.stride for each in head_maps(load_space("fbnet@224,head=lraspp"))] == [32, 16, 8]
    assert [each.stride for each in head_maps(load_space(SPELLED))] == [8, 4]
    space = load_space("fbnet_mini@64")
    features = build_net(ARCH, space).eval().features(torch.zeros(1, 1, 64, 64))
    shapes = {each.layer: (1, each.channels, each.height, each.width) for each in feature_maps(space)}
    assert {layer: tuple(each.shape) for layer, each in features.items()} == shapes


def test_the_parts_of_the_head_have_the_shapes_that_they_say_and_count_as_torch_does():
    space = load_space(SPELLED)
    net = build_net(ARCH, space).eval()
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 11, 16, 16)
    for part in space.head:
        out = build_part(part).eval()(torch.zeros(input_shape(part)))
        assert out.shape == (1, part.cout, part.out_height, part.out_width), part.name
    assert count_arch(ARCH, space).params == sum(parameter.numel() for parameter in net.parameters())


def test_ssdlite_answers_for_the_anchors_of_every_map_in_their_order():
    space = load_space("fbnet_mini@64,classes=4,head=ssdlite")
    net = build_net(ARCH, space).eval()
    outputs = net(torch.zeros(2, 1, 64, 64))
    assert outputs.shape == (2, 4 * (8 * 8 + 16 * 16), 4 + 8)
    anchors = torch.tensor(anchors_of(space))
    assert torch.equal(outputs[1, :, -4:], anchors)
    assert anchors[0, :2].tolist() == [0.5 / 8, 0.5 / 8] and anchors[4, :2].tolist() == [1.5 / 8, 0.5 / 8]
    squares = [anchors[place, 2].item() for place in (-4, -3, 0, 1)]
    assert squares[0] == pytest.approx(0.15) and all(
        after / before == pytest.approx(0.15**-0.25) for before, after in pairwise(squares)
    ), "sides grow by one factor across the maps"
    assert count_arch(ARCH, space).params == sum(parameter.numel() for parameter in net.parameters())
    part = space.head[0]
    assert build_part(part)(torch.zeros(input_shape(part))).shape == (1, part.cout, part.out_height, part.out_width)
    assert load_space("fbnet_mini@28,head=ssdlite").head, "any size will do"


def test_a_net_takes_the_weights_of_the_supernet_head_and_all():
    torch.manual_seed(0)
    supernet = Supernet(load_space(SPELLED)).eval()
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = supernet(images, supernet.choice_of(ARCH))
        assert torch.allclose(supernet.extract(ARCH).eval()(images), expected, atol=1e-5)
    classifier = Supernet(load_space("fbnet_mini"))
    assert torch.equal(classifier.extract(ARCH).head_linear.weight, classifier.head_linear.weight)


def test_the_head_is_part_of_a_space_and_its_identity_but_a_classifier_is_not_named():
    space, plain = load_space(SPELLED), load_space("fbnet_mini@64,classes=11")
    assert Space.from_dict(space.to_dict()) == space and "head_kind" not in plain.to_dict()
    assert content_key(space) != content_key(plain) == content_key(space.with_head("classifier"))
    assert space.distinct_blocks() == plain.distinct_blocks(), "so measured blocks serve both"
    assert spelled_with_head("fbnet_mini@64", "lraspp") == "fbnet_mini@64,head=lraspp"
    assert spelled_with_classes(SPELLED, 3) == "fbnet_mini@64,head=lraspp,classes=3"
    assert load_space(spelled_like("fbnet_mini@64", space)).to_dict() | {"name": ""} == space.to_dict() | {"name": ""}
    with pytest.raises(UserError, match="unknown change 'head=unet'"):
        load_space("fbnet_mini,head=unet")


def test_sizes_that_cannot_be_enlarged_by_whole_factors_are_refused_with_a_size_that_can():
    with pytest.raises(UserError, match="sides are multiples of 8, the space's are 28x60; append `@32x64`"):
        _ = load_space("fbnet_mini@28x60,head=lraspp").head


def test_a_space_gets_the_head_of_the_data_sets_task_and_says_so(capsys):
    space = fit_classes(load_space("fbnet_mini@64"), "fashion_scenes?task=segmentation")
    assert space.head_kind == "lraspp" and space.classes == 11
    told = capsys.readouterr().err
    assert "is for segmentation; nets get the head lraspp" in told and "has 11 classes" in told
    assert fit_classes(space, "fashion_scenes?task=multi_label").head_kind == "classifier"
    fit_classes(load_space("fbnet_mini@64"), "fashion_scenes?task=regression")
    assert "has 3 values per image and space fbnet_mini@64 10 classes; nets get 3" in capsys.readouterr().err
    with pytest.raises(UserError, match="append `@32x32`"):
        fit_classes(load_space("fbnet_mini@28"), "fashion_scenes?task=segmentation")


def test_a_space_file_may_name_its_head(tiny_space_file):
    tiny_space_file.write_text(tiny_space_file.read_text() + "head: lraspp\n")
    assert load_space(str(tiny_space_file)).head_kind == "lraspp"
    tiny_space_file.write_text(tiny_space_file.read_text().replace("lraspp", "unet"))
    with pytest.raises(ConfigError, match="head"):
        load_space(str(tiny_space_file))
