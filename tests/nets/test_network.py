import pytest
import timm
import torch

from tvmfbnet.errors import ArchError
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.timm_weights import from_timm, to_timm
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch, resolve_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space


@pytest.mark.parametrize("name", ["fbnet_a", "fbnet_c"])
def test_a_published_net_has_exactly_the_parameters_that_the_space_counts(name):
    arch, space = resolve_arch(name, load_space("fbnet"))
    net = build_net(arch, space)
    assert sum(p.numel() for p in net.parameters()) == count_arch(arch, space).params


def test_fbnet_c_takes_timms_weights_one_to_one_and_gives_equal_outputs():
    arch, space = resolve_arch("fbnet_c", load_space("fbnet"))
    ours, theirs = build_net(arch, space), timm.create_model("fbnetc_100", pretrained=False)
    randomise_bn(theirs, seed=5)
    ours.load_state_dict(from_timm(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-5, atol=1e-5)
    back = to_timm(ours.state_dict(), ours)
    assert list(back) == list(theirs.state_dict()), "same names in the same order"
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())


def test_folding_a_whole_net_changes_nothing_but_rounding():
    arch, space = resolve_arch("fbnet_c", load_space("fbnet"))
    net = build_net(arch, space).double()  # so that rounding, which 22 layers amplify, hides nothing
    randomise_bn(net, seed=5)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = net.eval()(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(fold_bn(net)(x), expected, rtol=1e-9, atol=1e-9)


def test_weights_of_another_arch_are_refused():
    arch, space = resolve_arch("fbnet_a", load_space("fbnet"))
    with pytest.raises(ArchError, match="do not belong"):
        from_timm(timm.create_model("fbnetc_100", pretrained=False).state_dict(), build_net(arch, space))


def test_an_arch_that_does_not_fit_the_space_is_refused():
    with pytest.raises(ArchError):
        build_net(Arch(("k3_e1",)), load_space("fbnet_mini"))


def test_a_net_of_skips_only_still_computes():
    space = load_space("fbnet_mini")
    arch = parse_arch("/".join(",".join(["skip"] * size) for size in space.stage_sizes), space)
    logits = build_net(arch, space)(torch.randn(2, space.input_channels, space.height, space.width))
    assert logits.shape == (2, space.classes)
