"""A plain net built from an arch, to be trained, exported, compiled and deployed."""

from __future__ import annotations

import torch
from torch import nn

from tvmfbnet.nets.blocks import build_part
from tvmfbnet.nets.heads import HeadedNet
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.heads import feature_maps, output_names
from tvmfbnet.space.space import Space


class ArchNet(HeadedNet):
    """The net of one arch: stem, one block per layer (``nn.Identity`` for identity skips), head.

    Args:
        space: the macro-architecture; its ``last_channels``, ``classes`` and ``head_kind`` shape the head.
        arch: one block per layer.
        dropout: probability before the classifier.
    """

    def __init__(self, space: Space, arch: Arch, dropout: float = 0.0) -> None:
        super().__init__()
        self.space, self.arch = space, arch
        self.stem = build_part(space.stem)
        parts = [layer.part(block) for layer, block in zip(space.layers, arch.blocks, strict=True)]
        self.layers = nn.ModuleList(nn.Identity() if part is None else build_part(part) for part in parts)
        self.build_head(dropout)
        self._kept = frozenset(each.layer for each in feature_maps(space))

    def features(self, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """Images (N, channels, height, width) to the last feature map of each size, by the layer that gives it.

        :func:`tvmfbnet.space.heads.feature_maps` tells their shapes, finest first; -1 is the stem's.
        """
        x = self.stem(x)
        maps = {-1: x} if -1 in self._kept else {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._kept:
                maps[index] = x
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, height, width) to the head's outputs: of a classifier logits (N, classes)."""
        return self.run_head(self.features(x))


class ExportedNet(nn.Module):
    """A net with the outputs that it is exported with: :func:`tvmfbnet.space.heads.output_names` names them."""

    def __init__(self, net: ArchNet) -> None:
        super().__init__()
        self.net = net

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the outputs, in order."""
        return output_names(self.net.space.head_kind)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (N, channels, height, width) to the outputs, in the order of their names."""
        return self.net.exported_head(self.net.features(x))


def build_net(arch: Arch, space: Space, dropout: float = 0.0) -> ArchNet:
    """A freshly initialised net; raises ArchError when the arch does not fit the space."""
    format_arch(arch, space)
    return ArchNet(space, arch, dropout)
