"""A plain net built from an arch, to be trained, exported, compiled and deployed."""

from __future__ import annotations

import torch
from torch import nn

from tvmfbnet.nets.blocks import build_part
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space


class ArchNet(nn.Module):
    """The net of one arch: stem, one block per layer (``nn.Identity`` for identity skips), head.

    Args:
        space: the macro-architecture; its ``last_channels`` and ``classes`` shape the head.
        arch: one block per layer.
        dropout: probability before the classifier.
    """

    def __init__(self, space: Space, arch: Arch, dropout: float = 0.0) -> None:
        super().__init__()
        self.space, self.arch = space, arch
        conv, pool, linear = space.head
        self.stem = build_part(space.stem)
        parts = [layer.part(block) for layer, block in zip(space.layers, arch.blocks, strict=True)]
        self.layers = nn.ModuleList(nn.Identity() if part is None else build_part(part) for part in parts)
        self.head_conv, self.head_pool = build_part(conv), build_part(pool)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head_linear = build_part(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, height, width) to logits (N, classes)."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        x = self.head_pool(self.head_conv(x))
        return self.head_linear(self.dropout(x))  # type: ignore[no-any-return]


def build_net(arch: Arch, space: Space, dropout: float = 0.0) -> ArchNet:
    """A freshly initialised net; raises ArchError when the arch does not fit the space."""
    format_arch(arch, space)
    return ArchNet(space, arch, dropout)
