import onnxruntime
import pytest
import timm.layers
import torch
from torch import nn

from tvmfbnet.compiler.export import export_parts, part_input_shape, part_module
from tvmfbnet.nets.blocks import ChannelShuffle, ConvBNReLU, FBNetBlock, build_part, input_shape
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart
from tvmfbnet.training.device import place_pixels

MINI = load_space("fbnet_mini")
BEYOND = [
    NetPart("block", name, 8, cout, 9, 7, stride)
    for name in ("k7_e3_se_hswish", "k3_e1_se", "k5_e2_g2_swish")
    for cout, stride in ((8, 1), (12, 2))
]


@pytest.mark.parametrize("part", [*MINI.distinct_parts(), *BEYOND], ids=lambda part: part.name)
def test_every_part_of_a_space_has_the_declared_output_shape_and_parameter_count(part):
    module = build_part(part).eval()
    out = module(torch.randn(input_shape(part, 2)))
    if part.part in ("head_pool", "head_linear"):
        assert out.shape == (2, part.cout)
    else:
        assert out.shape == (2, part.cout, part.out_height, part.out_width)
    assert sum(p.numel() for p in module.parameters()) == count_part(part).params


def test_channel_shuffle_interleaves_the_groups():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert ChannelShuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(ChannelShuffle(2)(x), nn.functional.channel_shuffle(x, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_that_are_channels_last_stay_so_through_every_block(channels):
    pixels = place_pixels(torch.randn(2, channels, 8, 6), torch.device("cpu"))
    stem = ConvBNReLU(channels, 8, 3)
    for block in ("k3_e1_g2", "k5_e2_g4_se_hswish", "k3_e1"):
        net = nn.Sequential(stem, build_part(NetPart("block", block, 8, 8, 8, 6, 1)))
        assert net(pixels).is_contiguous(memory_format=torch.channels_last), block
    x = stem(pixels)
    assert torch.equal(ChannelShuffle(2)(x), ChannelShuffle(2)(x.contiguous()))


def test_the_identity_is_added_only_where_shapes_stay_and_no_relu_follows():
    kept = MINI.layers[0].part("k3_e1")
    changed = next(layer for layer in MINI.layers if layer.cin != layer.cout).part("k3_e1")
    same, other = build_part(kept), build_part(changed)
    assert isinstance(same, FBNetBlock) and same.has_residual
    assert isinstance(other, FBNetBlock) and not other.has_residual
    nn.init.zeros_(same.bn3.weight)
    x = torch.randn(input_shape(kept))
    assert torch.equal(same.eval()(x), x), "with a silent branch the block is the identity, negative values included"


def test_a_projecting_skip_is_a_1x1_conv_with_bn_and_relu():
    layer = next(layer for layer in MINI.layers if layer.stride == 2)
    module = build_part(layer.part("skip"))
    assert isinstance(module, ConvBNReLU)
    assert module.conv.kernel_size == (1, 1) and module.conv.stride == (2, 2) and module.conv.bias is None
    assert module.eval()(torch.randn(input_shape(layer.part("skip")))).min() >= 0


@pytest.mark.parametrize("part", [*MINI.distinct_parts(), *BEYOND], ids=lambda part: part.name)
def test_folding_batch_norm_changes_nothing_but_rounding(part):
    module = build_part(part)
    randomise_bn(module, seed=1)
    module.eval()
    folded = fold_bn(module)
    x = torch.randn(input_shape(part, 2))
    torch.testing.assert_close(folded(x), module(x), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(child, nn.BatchNorm2d) for child in folded.modules())
    assert not any(isinstance(child, nn.Conv2d) and child.bias is None for child in folded.modules())


def test_randomised_batch_norm_is_reproducible_and_nowhere_trivial():
    first, second = (build_part(MINI.layers[0].part("k3_e3")) for _ in range(2))
    randomise_bn(first, seed=3)
    randomise_bn(second, seed=3)
    for name in ("bn1", "bn2", "bn3"):
        ours, theirs = getattr(first, name), getattr(second, name)
        for tensor in ("running_mean", "running_var", "weight", "bias"):
            assert torch.equal(getattr(ours, tensor), getattr(theirs, tensor))
        assert (ours.running_mean != 0).all() and (ours.running_var != 1).all()
        assert (ours.weight != 1).all() and (ours.bias != 0).all()


def test_squeeze_and_excitation_weights_channels_by_what_the_whole_picture_shows():
    module = build_part(NetPart("block", "k3_e2_se", 4, 4, 6, 6, 1)).eval()
    x = torch.randn(2, 8, 6, 6)
    gates = module.se.gates(x.mean(dim=(2, 3)))
    assert gates.shape == (2, 8) and gates.min() >= 0 and gates.max() <= 1
    torch.testing.assert_close(module.se(x), x * gates.view(2, 8, 1, 1))
    theirs = timm.layers.SqueezeExcite(8, rd_channels=2, gate_layer="hard_sigmoid")
    for mine, other in ((module.se.reduce, theirs.fc1), (module.se.expand, theirs.fc2)):
        other.load_state_dict({"weight": mine.weight[:, :, None, None], "bias": mine.bias})
    torch.testing.assert_close(module.se(x), theirs(x))


def test_blocks_beyond_the_paper_export_to_onnx_and_run_there():
    for part, model in export_parts(BEYOND[::2] + BEYOND[3:4]).items():
        x = torch.randn(part_input_shape(part), generator=torch.Generator().manual_seed(0))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = part_module(part)(x)
        torch.testing.assert_close(
            torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), expected, rtol=1e-4, atol=1e-5
        )
