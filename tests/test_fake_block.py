"""A structure of blocks is one class and its module: a fused block, registered by this test alone, goes all the way
from space file to latency model, search and export.

No other file knows of it. The product has none such, but all of it is real.
"""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from tvmfbnet.compiler.export import export_parts
from tvmfbnet.errors import ArchError, ConfigError
from tvmfbnet.latency.regressor import complete
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, write_table
from tvmfbnet.nets.blocks import MODULES, activation, build_part
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.supernet import Paths, Supernet
from tvmfbnet.report.blocks import block_colour
from tvmfbnet.search.derive import choice_of
from tvmfbnet.search.predictor.features import ArchFeatures, as_choices
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.blocks import STRUCTURES, BlockSpec, Structure, parse_block
from tvmfbnet.space.convs import Conv
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space

SPACE = """
input: {channels: 1, height: 16, width: 16}
classes: 4
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 2, stride: 1}, {channels: 16, layers: 2, stride: 2}]
blocks: [k3_e1, k5_e1, k3_e3, fused3_e1, fused3_e3, skip]
last_channels: 16
"""


@dataclass(frozen=True)
class FusedSpec:
    """A dense k x k conv that expands, and a 1x1 conv that projects (Tan and Le 2021, Fused-MBConv)."""

    kernel: int
    expansion: int
    groups: int = 1
    squeeze_excite: bool = False
    activation: str = "relu"
    tint: float = 0.2

    @property
    def name(self):
        return f"fused{self.kernel}_e{self.expansion}"

    def convs(self, part):
        inner = part.cin * self.expansion
        first = Conv("dense", part.cin, inner, self.kernel, 1, part.stride, part.height, part.width, True)
        out = (part.out_height, part.out_width)
        return first, Conv("pointwise", inner, part.cout, 1, 1, 1, *out, False, part.has_residual)

    @classmethod
    def parse(cls, name):
        match = re.fullmatch(r"fused([3579])_e([1-9])", name)
        return None if match is None else cls(int(match[1]), int(match[2]))


class FusedBlock(nn.Module):
    FOLDED = (("conv", "bn1"), ("conv_pwl", "bn2"))

    def __init__(self, spec, cin, cout, stride):
        super().__init__()
        inner = cin * spec.expansion
        self.conv = nn.Conv2d(cin, inner, spec.kernel, stride, padding=spec.kernel // 2, bias=False)
        self.bn1, self.act = nn.BatchNorm2d(inner), activation(spec.activation)
        self.conv_pwl, self.bn2 = nn.Conv2d(inner, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.has_residual = stride == 1 and cin == cout

    def forward(self, x):
        y = self.bn2(self.conv_pwl(self.act(self.bn1(self.conv(x)))))
        return y + x if self.has_residual else y


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(STRUCTURES, "fused", Structure("fused<odd kernel>_e<expansion>", FusedSpec.parse))
    monkeypatch.setitem(MODULES, FusedSpec, FusedBlock)


@pytest.fixture
def space(tmp_path):
    (tmp_path / "fused.yaml").write_text(SPACE)
    return load_space(str(tmp_path / "fused.yaml"))


ARCH = Arch(("fused3_e3", "k5_e1", "fused3_e1", "fused3_e3"))


def test_names_of_both_structures_are_read_and_others_refused_with_both_forms(space, tmp_path):
    assert parse_arch(format_arch(ARCH, space), space) == ARCH
    assert isinstance(parse_block("fused3_e1"), FusedSpec) and isinstance(parse_block("k3_e1"), BlockSpec)
    with pytest.raises(ArchError, match=r"unknown block 'fused4_e1': .* or fused<odd kernel>_e<expansion>$"):
        parse_block("fused4_e1")
    (tmp_path / "bad.yaml").write_text(SPACE.replace("fused3_e1", "fused3_e0"))
    with pytest.raises(ConfigError, match="fused3_e0"):
        load_space(str(tmp_path / "bad.yaml"))


def test_its_parameters_are_those_of_its_module(space):
    net = build_net(ARCH, space)
    assert count_arch(ARCH, space).params == sum(parameter.numel() for parameter in net.parameters())


def test_its_latency_is_simulated_stored_and_predicted(space, tmp_path):
    table = LatencyTable.load("simulated:gflops=16,gbps=8,call_us=5", space)
    assert table.arch_ms(ARCH, space) > table.arch_ms(Arch(("k3_e1", "k5_e1", "k3_e1", "k3_e3")), space)
    write_table(table, tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv").cells == table.cells
    parts = space.distinct_parts()
    hidden = next(part for part in parts if part.block == "fused3_e3")
    others = {part: cell for part, cell in table.cells.items() if part != hidden}
    assert complete(LatencyTable(others), parts).lookup(hidden).latency_ms > 0


def test_models_of_accuracy_and_figures_tell_it_from_others(space):
    plain = Arch(("k3_e3", "k5_e1", "k3_e1", "k3_e3"))
    choices = as_choices(choice_of(format_arch(arch, space), space) for arch in (ARCH, plain))
    described = ArchFeatures(space).of(choices)
    assert all(np.isfinite(table).all() for table in described.arrays)
    assert not np.array_equal(*described.blocks) and not np.array_equal(*described.log_sizes)
    colours = [block_colour(block) for block in space.layers[0].blocks]
    assert len(set(colours)) == len(colours)


def test_it_is_searched_folded_and_exported_like_any_block(space):
    torch.manual_seed(0)
    part = space.layers[0].cell("fused3_e3")
    block = build_part(part).eval()
    randomise_bn(block, seed=1)
    folded, x = fold_bn(block), torch.randn(1, part.cin, part.height, part.width)
    assert not any(isinstance(child, nn.BatchNorm2d) for child in folded.modules())
    torch.testing.assert_close(folded(x), block(x), rtol=1e-4, atol=1e-4)
    (model,) = export_parts([part]).values()
    assert [node.op_type for node in model.graph.node].count("Conv") == 2

    merged, plain = (Supernet(space, merged=merged) for merged in (True, False))
    plain.load_state_dict(merged.state_dict())
    images = torch.randn(4, 1, 16, 16)
    mix = torch.full((len(space.layers), len(space.layers[0].blocks)), 1 / 6)
    torch.testing.assert_close(merged(images, mix), plain(images, mix), rtol=1e-4, atol=1e-4)
    choice = merged.choice_of(ARCH)
    paths = [Paths((index,), torch.ones(1)) for index in choice]
    merged.eval()
    torch.testing.assert_close(merged(images, paths), merged(images, choice), rtol=1e-4, atol=1e-4)
    merged.train()
    merged(images, mix).sum().backward()
    fused = [child for child in merged.modules() if isinstance(child, FusedBlock)]
    assert fused and all(child.conv.weight.grad is not None for child in fused)
