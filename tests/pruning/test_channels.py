"""Narrower blocks: which widths there are, which are chosen, and that a narrowed net computes what it should."""

import pytest
import torch
import yaml

from tvmfbnet.errors import ArchError, ConstraintError
from tvmfbnet.latency.regressor import complete
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import build_net
from tvmfbnet.pruning.channels import ChannelTicket, magnitudes
from tvmfbnet.pruning.widths import Narrowing, choose_widths, narrowed_arch, widths_of, widths_space
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.blocks import NarrowedSpec, canonical_block, parse_block
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.schema import written_out

SPACE = """
input: {channels: 1, height: 16, width: 16}
classes: 4
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 2, stride: 1}, {channels: 16, layers: 2, stride: 2}]
blocks: [k3_e1_g2, k3_e3, k5_e6_se, k5_e6, skip]
last_channels: 16
"""
ARCH = Arch(("k3_e3", "k5_e6_se", "k3_e1_g2", "k5_e6"))


@pytest.fixture
def space(tmp_path):
    (tmp_path / "widths.yaml").write_text(SPACE)
    return load_space(str(tmp_path / "widths.yaml"))


def net_of(arch, space):
    net = build_net(arch, space).eval()
    randomise_bn(net, seed=1)
    return net


def test_widths_are_multiples_below_the_full_one_and_blocks_with_groups_have_none(space):
    assert [width.block for width in widths_of(ARCH, space, 0, 8)] == ["k3_e3", "k3_e3_w16", "k3_e3_w8"]
    assert [width.channels for width in widths_of(ARCH, space, 3, 32)] == [96, 64, 32]
    assert widths_of(ARCH, space, 2, 8) == () and widths_of(ARCH, space, 0, 64) == ()
    assert [len(layer.blocks) for layer in widths_space(ARCH, space, 8).layers] == [3, 6, 1, 12]
    with pytest.raises(ConstraintError, match="no block can be narrowed to a multiple of 512 channels"):
        widths_space(ARCH, space, 512)


def test_a_narrowed_block_has_one_name_which_spaces_and_archs_read(space, tmp_path):
    assert parse_block("k5_e6_se_hswish_w88").name == canonical_block("k5_e6_se_hswish_w88") == "k5_e6_se_hswish_w88"
    assert isinstance(parse_block("k3_e3_w8"), NarrowedSpec)
    for name in ("k3_e3_w0", "k3_e1_g2_w8", "skip_w8", "k3_e3_w8_w4"):
        with pytest.raises(ArchError, match=r"_w<channels inside> appended"):
            parse_block(name)
    arch, narrow = narrowed_arch(ARCH, space, {0: 16, 3: 96})
    assert arch.blocks == ("k3_e3_w16", *ARCH.blocks[1:])
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(written_out(narrow)))
    assert load_space(str(tmp_path / "narrow.yaml")).layers == narrow.layers


def test_a_narrowed_nets_parameters_are_those_of_its_module_and_its_latency_falls_with_its_width(space):
    arch, narrow = narrowed_arch(ARCH, space, {0: 16, 1: 24, 3: 40})
    net = build_net(arch, narrow)
    assert count_arch(arch, narrow).params == sum(parameter.numel() for parameter in net.parameters())
    table = LatencyTable.load("simulated:gflops=16,gbps=8,call_us=5", widths_space(ARCH, space, 8))
    latencies = [table.arch_ms(*narrowed_arch(ARCH, space, {3: width})) for width in (96, 48, 8)]
    assert latencies == sorted(latencies, reverse=True) and latencies[0] > latencies[2]


def test_latencies_of_narrowed_blocks_are_predicted_from_whole_ones_by_their_own_width(space):
    whole = LatencyTable.load("simulated:gflops=16,gbps=8,call_us=5", space)
    parts = [space.layers[3].cell(width.block) for width in widths_of(ARCH, space, 3, 8)]
    predicted = [complete(whole, parts).lookup(part).latency_ms for part in parts]
    assert predicted[0] == whole.lookup(parts[0]).latency_ms
    assert predicted[-1] < 0.6 * predicted[0], predicted


def test_a_narrowed_net_is_the_dense_one_without_the_removed_channels(space):
    dense = net_of(ARCH, space)
    kept = {0: torch.tensor([1, 4, 5, 8, 9, 11, 20, 23]), 3: torch.arange(96)[1::2]}
    table = LatencyTable.load("simulated:gflops=16,gbps=8", widths_space(ARCH, space, 8))
    ticket = ChannelTicket(ARCH, space, table, 8, kept)
    narrow = ticket.build(dense.state_dict()).eval()
    with torch.no_grad():
        for index, channels in kept.items():
            projection = dense.layers[index].conv_pwl.weight
            removed = torch.ones(projection.shape[1], dtype=torch.bool)
            removed[channels] = False
            projection[:, removed] = 0
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(narrow(images), dense(images), rtol=1e-4, atol=1e-5)
    assert ticket.size.weights < sum(p.numel() for p in dense.parameters() if p.dim() > 1)
    assert ticket.control(3).state_dict().keys() == narrow.state_dict().keys()


def test_squeeze_and_excitation_is_cut_with_its_channels(space):
    kept = {1: torch.arange(8)}
    table = LatencyTable.load("simulated:gflops=16,gbps=8", widths_space(ARCH, space, 8))
    block = ChannelTicket(ARCH, space, table, 8, kept).build(net_of(ARCH, space).state_dict()).layers[1]
    assert block.se.reduce.weight.shape == (12, 8) and block.se.expand.weight.shape == (8, 12)


def test_the_channels_that_go_are_those_of_least_magnitude_until_the_latency_is_met(space):
    dense = net_of(ARCH, space)
    with torch.no_grad():
        dense.layers[3].conv_pwl.weight[:, :32] *= 1e-3
        dense.layers[3].conv_dw.weight[:32] *= 1e-3
        dense.layers[3].conv_pw.weight[:32] *= 1e-3
    shares = magnitudes(fold_bn(dense).layers[3])
    assert shares.sum().item() == pytest.approx(1) and shares[:32].max() < shares[32:].min()
    table = LatencyTable.load("simulated:gflops=1,gbps=8", widths_space(ARCH, space, 8))
    full = ChannelTicket(ARCH, space, table, 8)
    target = table.arch_ms(*narrowed_arch(ARCH, space, {3: 64}))
    smaller = full.pruned(dense, target)
    assert smaller.narrowed[0].blocks == (*ARCH.blocks[:3], "k5_e6_w64"), "nothing else costs so little"
    assert smaller.kept[3].tolist() == list(range(32, 96)) and smaller.size.latency_ms == pytest.approx(target)
    again = smaller.pruned(smaller.build(dense.state_dict()), 0.8 * target)
    assert set(again.kept[3].tolist()) <= set(range(32, 96)) and again.size.latency_ms <= 0.8 * target
    with pytest.raises(ConstraintError, match="narrower blocks save nothing more"):
        again.pruned(again.build(dense.state_dict()), 1e-6)


def test_widths_that_save_nothing_are_passed_and_the_best_rate_comes_first():
    flat = [Narrowing(32, 1.0, 0.0), Narrowing(24, 1.0, 0.1), Narrowing(16, 0.4, 0.2)]
    steep = [Narrowing(16, 1.0, 0.0), Narrowing(8, 0.9, 0.01)]
    assert choose_widths({0: flat, 5: steep}, 2.0, 1.95) == {5: 8}, "10 ms per magnitude against 3"
    assert choose_widths({0: flat, 5: steep}, 2.0, 1.5) == {0: 16, 5: 8}
    with pytest.raises(ConstraintError, match=r"save nothing more at 1.3 ms, and the target is 1 ms"):
        choose_widths({0: flat, 5: steep}, 2.0, 1.0)
