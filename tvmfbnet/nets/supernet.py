"""The supernet: every candidate block of every layer at once, mixed by weights drawn from theta (FBNet, section 3.2).

Layer l computes ``sum_i m[l, i] * block_i(x)``. During the search m is a Gumbel-softmax sample of theta; during warm-up
it is one block per layer, and then only that block runs. Probabilities of an arch multiply over layers.

Cheaper forms run one or two blocks per layer and still give theta a gradient: :meth:`Supernet.draw`. The blocks of a
layer have weights of their own or share one set (:mod:`tvmfbnet.nets.shared_weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tvmfbnet.nets.batched_mixture import bands_of, merged_mixture, share_initialisation
from tvmfbnet.nets.blocks import FBNetBlock, build_block, build_part
from tvmfbnet.nets.heads import HeadedNet
from tvmfbnet.nets.joint_batchnorm import frozen_statistics
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.nets.sampling_modes import Form
from tvmfbnet.nets.shared_weights import SharedWeights, shared_by_structure
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.counts import count_part
from tvmfbnet.space.space import Layer, Space


@dataclass(frozen=True)
class Paths:
    """The candidates of one layer that run.

    Attributes:
        indices: which.
        weights: (len(indices),), with the gradient that theta learns from.
    """

    indices: tuple[int, ...]
    weights: torch.Tensor


Mix = torch.Tensor | Sequence[int] | Sequence[Paths]
"""Weights of shape (layers, candidates), or for each layer one candidate's index or some weighted candidates."""


class MixedLayer(nn.Module):
    """The candidate blocks of one layer.

    Args:
        layer: its shape and candidates.
        merged: compute mixtures with large joint operations (:mod:`tvmfbnet.nets.batched_mixture`) or block by block.
        save_memory: keep only the input of a mixture for the backward pass, which computes the rest again.
        share_weights: blocks of one structure are parts of the largest; a mixture is then computed block by block.
    """

    def __init__(
        self, layer: Layer, merged: bool = True, save_memory: bool = False, share_weights: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(build_block(block, layer.cin, layer.cout, layer.stride) for block in layer.blocks)
        # Residual blocks start as the identity (Goyal et al. 2017, section 5.1). Without it a path of random blocks
        # hands each layer another kind of noise in every warm-up step, and weights hardly learn.
        # Where there is no residual to start from, they start as one common function.
        convs = [block for block in self.blocks if isinstance(block, FBNetBlock)]
        for block in convs:
            if block.has_residual:
                nn.init.zeros_(block.bn3.weight)
        if convs and not convs[0].has_residual:
            share_initialisation(convs)
        self._passes_on = layer.cin == layer.cout and layer.stride == 1
        self._bands = bands_of(list(self.blocks)) if merged and not share_weights else None
        self._save_memory = save_memory
        if share_weights:
            self.shared, self._share = shared_by_structure(self.blocks, layer.cin, layer.cout, layer.stride)
        else:
            self._share = {}

    def forward(self, x: torch.Tensor, mix: torch.Tensor | int | Paths) -> torch.Tensor:
        """The weighted sum of all blocks or of some, or one block alone where ``mix`` is an index."""
        if isinstance(mix, int):
            return self._one(x, mix)
        if isinstance(mix, Paths):
            return self._some(x, mix)
        if not (self._save_memory and self.training and torch.is_grad_enabled()):
            return self._all(x, mix)
        kept: torch.Tensor = checkpoint(
            self._all,
            x,
            mix,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), frozen_statistics(self)),
        )
        return kept

    def block_state(self, index: int) -> dict[str, torch.Tensor]:
        """The state of one block, by name, with the weights that it runs with."""
        block = self.blocks[index]
        state: dict[str, torch.Tensor] = dict(block.state_dict())
        weights = self._weights_of(index)
        return state if weights is None else {**state, **weights.of(cast(FBNetBlock, block))}

    def unused_parameters(self) -> set[nn.Parameter]:
        """Those of blocks that run with shared weights."""
        return {parameter for index in self._share for parameter in self.blocks[index].parameters()}

    def _weights_of(self, index: int) -> SharedWeights | None:
        """The shared weights that a block runs with; None where it has its own."""
        return cast(SharedWeights, self.shared[self._share[index]]) if index in self._share else None

    def _one(self, x: torch.Tensor, index: int) -> torch.Tensor:
        block, weights = self.blocks[index], self._weights_of(index)
        out: torch.Tensor = block(x) if weights is None else weights.run(cast(FBNetBlock, block), x)
        return out

    def _branch(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """What a block adds to its input where the layer may pass that on; else the block."""
        block, weights = self.blocks[index], self._weights_of(index)
        if not isinstance(block, FBNetBlock):
            out: torch.Tensor = block(x)
            return out - x if self._passes_on else out
        return block.branch(x) if weights is None else weights.branch(block, x)

    def _all(self, x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        if self._bands is not None:
            return merged_mixture(list(self.blocks), self._bands, x, mix)
        outputs = [self._one(x, index) for index in range(len(self.blocks))]
        total = mix[0] * outputs[0]
        for weight, output in zip(mix[1:], outputs[1:], strict=False):  # mix is padded where layers differ in blocks
            total = total + weight * output
        return total

    def _some(self, x: torch.Tensor, paths: Paths) -> torch.Tensor:
        """The weighted sum of some blocks, whose weights sum to 1.

        Where the layer may pass its input on, every candidate does; that common part stays out of the weights. It
        would only add noise to theta's gradient: shared by all, it says nothing about which block is better.
        """
        total: torch.Tensor | None = x if self._passes_on else None
        for index, weight in zip(paths.indices, paths.weights, strict=True):
            if isinstance(self.blocks[index], nn.Identity):
                continue
            out = weight * self._branch(x, index)
            total = out if total is None else total + out
        if total is None:
            raise ValueError("no path was given")
        return total


class Supernet(HeadedNet):
    """All archs of a space in one net.

    ``theta`` has shape (layers, candidates); layers with fewer candidates than the largest leave the rest unused
    (``mask`` is False there, and their probability is exactly 0).

    Args:
        space: what may be searched.
        merged: compute mixtures with large joint operations; the same function, faster.
        save_memory: keep only each layer's input for the backward pass; slower, with a fraction of the memory.
        share_weights: the blocks of a layer share one set of weights (:mod:`tvmfbnet.nets.shared_weights`).
    """

    mask: torch.Tensor

    def __init__(
        self, space: Space, merged: bool = True, save_memory: bool = False, share_weights: bool = False
    ) -> None:
        super().__init__()
        self.space = space
        self.stem = build_part(space.stem)
        self.layers = nn.ModuleList(MixedLayer(layer, merged, save_memory, share_weights) for layer in space.layers)
        self.build_head()
        counts = torch.tensor([len(layer.blocks) for layer in space.layers])
        self.theta = nn.Parameter(torch.zeros(len(counts), int(counts.max())))
        self.register_buffer("mask", torch.arange(int(counts.max())) < counts.view(-1, 1), persistent=False)

    def forward(self, x: torch.Tensor, mix: Mix) -> torch.Tensor:
        """Images (N, channels, height, width) to the head's outputs: of a classifier logits (N, classes)."""
        x = self.stem(x)
        maps = {-1: x} if -1 in self._taken else {}
        for index, (layer, weights) in enumerate(zip(self.layers, mix, strict=True)):
            x = layer(x, weights)
            if index in self._taken:
                maps[index] = x
        return self.run_head(maps)

    def weight_parameters(self) -> list[nn.Parameter]:
        """All learned parameters except theta."""
        unused = {parameter for layer in self.layers for parameter in cast(MixedLayer, layer).unused_parameters()}
        return [p for name, p in self.named_parameters() if name != "theta" and p not in unused]

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
        return self._gumbel_logits(temperature, generator).softmax(dim=1)

    def _gumbel_logits(self, temperature: float, generator: torch.Generator) -> torch.Tensor:
        exponential = torch.empty(self.theta.shape).exponential_(generator=generator)
        gumbel = -exponential.clamp_min(torch.finfo(torch.float32).tiny).log()
        logits = (self.theta + gumbel.to(self.theta.device)) / temperature
        return logits.masked_fill(~self.mask, float("-inf"))

    def draw(self, form: Form, temperature: float, generator: torch.Generator) -> tuple[Mix, torch.Tensor]:
        """A random mix by which theta learns, and the Gumbel-softmax sample (layers, candidates) it was made from.

        - ``mixture``: the sample itself; every block runs (FBNet).
        - ``sampled``: of each layer the one block with the largest weight, at weight 1, which backward passes on as
          if it were the sample's weight (straight-through; Dong and Yang 2019, section 3.2).
        - ``two_path``: the two largest, their weights scaled to sum to 1 (after Cai et al. 2019, section 3.2.2).
        """
        logits = self._gumbel_logits(temperature, generator)
        soft = logits.softmax(dim=1)
        if form == "mixture":
            return soft, soft
        paths = []
        for row, mixed, layer in zip(logits, soft, self.space.layers, strict=True):
            count = min(1 if form == "sampled" else 2, len(layer.blocks))
            chosen = row.detach().topk(count).indices
            weights = 1 + mixed[chosen] - mixed[chosen].detach() if count == 1 else row[chosen].softmax(dim=0)
            paths.append(Paths(tuple(chosen.tolist()), weights))
        return paths, soft

    def uniform_choice(self, generator: torch.Generator) -> list[int]:
        """One candidate per layer, drawn with equal probability: the path of a warm-up step."""
        return [int(torch.randint(len(layer.blocks), (), generator=generator)) for layer in self.space.layers]

    def heaviest_choice(self) -> list[int]:
        """The path of most multiply-accumulates."""
        return [max(range(len(macs)), key=macs.__getitem__) for macs in self._macs()]

    def lightest_choice(self) -> list[int]:
        """The path of fewest multiply-accumulates."""
        return [min(range(len(macs)), key=macs.__getitem__) for macs in self._macs()]

    def _macs(self) -> list[list[int]]:
        return [[count_part(layer.cell(block)).macs for block in layer.blocks] for layer in self.space.layers]

    def choice_of(self, arch: Arch) -> list[int]:
        """The candidates' indices of an arch."""
        return [layer.blocks.index(block) for layer, block in zip(self.space.layers, arch.blocks, strict=True)]

    def extract(self, arch: Arch) -> ArchNet:
        """The net of ``arch`` with a copy of the supernet's weights.

        Its batch-norm statistics are the supernet's, gathered over mixed inputs that this net never sees: recalibrate
        them (:func:`tvmfbnet.nets.bn_recalibration.recalibrate`) before the net is judged.
        """
        net = ArchNet(self.space, arch)
        net.stem.load_state_dict(self.stem.state_dict())
        for layer, mixed, choice in zip(net.layers, self.layers, self.choice_of(arch), strict=True):
            layer.load_state_dict(cast(MixedLayer, mixed).block_state(choice))
        net.load_state_dict(self.head_state(), strict=False)
        return net.to(self.theta.device)
