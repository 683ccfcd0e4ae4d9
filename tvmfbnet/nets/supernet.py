"""The supernet: every candidate block of every layer at once, mixed by weights drawn from theta (FBNet, section 3.2).

Layer l computes ``sum_i m[l, i] * block_i(x)``. During the search m is a Gumbel-softmax sample of theta; during warm-up
it is one block a layer, and then only that block runs. Probabilities of an arch multiply over layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from tvmfbnet.nets.arch_net import ArchNet
from tvmfbnet.nets.blocks import FBNetBlock, build_block, build_part, initialise
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Layer, Space

Mix = torch.Tensor | Sequence[int]
"""Weights of shape (layers, candidates), or one candidate's index a layer."""


class MixedLayer(nn.Module):
    """The candidate blocks of one layer."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            initialise(build_block(block, layer.cin, layer.cout, layer.stride)) for block in layer.blocks
        )
        # Residual blocks start as the identity (Goyal et al. 2017, section 5.1). Without it a path of random blocks
        # hands each layer another kind of noise in every warm-up step, and weights hardly learn.
        for block in self.blocks:
            if isinstance(block, FBNetBlock) and block.has_residual:
                nn.init.zeros_(block.bn3.weight)

    def forward(self, x: torch.Tensor, mix: torch.Tensor | int) -> torch.Tensor:
        """The weighted sum of all blocks, or one block alone where ``mix`` is an index."""
        if isinstance(mix, int):
            return self.blocks[mix](x)  # type: ignore[no-any-return]
        outputs: list[torch.Tensor] = [block(x) for block in self.blocks]
        total = mix[0] * outputs[0]
        for weight, output in zip(mix[1:], outputs[1:], strict=False):  # mix is padded where layers differ in blocks
            total = total + weight * output
        return total


class Supernet(nn.Module):
    """All archs of a space in one net.

    ``theta`` has shape (layers, candidates); layers with fewer candidates than the largest leave the rest unused
    (``mask`` is False there, and their probability is exactly 0).
    """

    mask: torch.Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        conv, pool, linear = space.head
        self.stem = build_part(space.stem)
        self.layers = nn.ModuleList(MixedLayer(layer) for layer in space.layers)
        self.head_conv, self.head_pool, self.head_linear = build_part(conv), build_part(pool), build_part(linear)
        counts = torch.tensor([len(layer.blocks) for layer in space.layers])
        self.theta = nn.Parameter(torch.zeros(len(counts), int(counts.max())))
        self.register_buffer("mask", torch.arange(int(counts.max())) < counts.view(-1, 1), persistent=False)

    def forward(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        """Pictures (N, channels, height, width) to logits (N, classes)."""
        x = self.stem(x)
        for layer, weights in zip(self.layers, mix, strict=True):
            x = layer(x, weights)
        return self.head_linear(self.head_pool(self.head_conv(x)))  # type: ignore[no-any-return]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything that is learned except theta."""
        return [parameter for name, parameter in self.named_parameters() if name != "theta"]

    def theta_parameters(self) -> list[nn.Parameter]:
        """Theta alone."""
        return [self.theta]

    def log_probabilities(self) -> torch.Tensor:
        """log softmax of theta, (layers, candidates); -inf where there is no candidate."""
        return self.theta.masked_fill(~self.mask, float("-inf")).log_softmax(dim=1)

    def probabilities(self) -> torch.Tensor:
        """softmax of theta, (layers, candidates)."""
        return self.log_probabilities().exp()

    def gumbel_mix(self, temperature: float, generator: torch.Generator) -> torch.Tensor:
        """A Gumbel-softmax sample of theta, (layers, candidates), differentiable in theta (FBNet, eq. 9)."""
        exponential = torch.empty(self.theta.shape).exponential_(generator=generator)
        gumbel = -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()
        logits = self.theta + gumbel.to(self.theta.device)
        return (logits / temperature).masked_fill(~self.mask, float("-inf")).softmax(dim=1)

    def uniform_choice(self, generator: torch.Generator) -> list[int]:
        """One candidate a layer, each with equal probability: a warm-up step's path."""
        return [int(torch.randint(len(layer.blocks), (), generator=generator)) for layer in self.space.layers]

    def choice_of(self, arch: Arch) -> list[int]:
        """The candidates' indices of an arch."""
        return [layer.blocks.index(block) for layer, block in zip(self.space.layers, arch.blocks, strict=True)]

    def extract(self, arch: Arch) -> ArchNet:
        """The net of ``arch`` with a copy of the supernet's weights.

        Its batch-norm statistics are the supernet's, gathered over mixed inputs that this net never sees: recalibrate
        them (:func:`tvmfbnet.nets.statistics.recalibrate`) before the net is judged.
        """
        net = ArchNet(self.space, arch)
        net.stem.load_state_dict(self.stem.state_dict())
        for layer, mixed, choice in zip(net.layers, self.layers, self.choice_of(arch), strict=True):
            layer.load_state_dict(cast(MixedLayer, mixed).blocks[choice].state_dict())
        net.head_conv.load_state_dict(self.head_conv.state_dict())
        net.head_linear.load_state_dict(self.head_linear.state_dict())
        return net.to(self.theta.device)
