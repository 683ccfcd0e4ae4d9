"""Unstructured tickets: the smallest weights are set to zero and stay zero, through ``torch.nn.utils.prune``.

Prunable are the weights of convs and of the classifier; batch norms and biases stay (Frankle and Carbin 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from tvmfbnet.nets.network import ArchNet, build_net
from tvmfbnet.pruning.config import Scope
from tvmfbnet.pruning.ticket import Size, Ticket
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import Tensors, seeded

_WEIGHT = "weight"
prune: Any = torch_prune  # torch has no types for it


def prunable(net: nn.Module) -> dict[str, nn.Module]:
    """The convs and fully connected layers, by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def smallest_removed(
    net: nn.Module, masks: Mapping[str, torch.Tensor], level: float, scope: Scope
) -> dict[str, torch.Tensor]:
    """Masks with fewer weights: of those that remain, the ones of least magnitude are removed.

    Args:
        net: trained, with the weights themselves; unchanged.
        masks: of each prunable module: 1 where a weight remains.
        level: share of all prunable weights that shall remain; at least one of each layer, unless ``scope`` is global.
        scope: ``global`` removes the smallest of the whole net, ``layer`` the same share of every layer, ``adaptive``
            the smallest of the whole net by :func:`adaptive_scores`.
    """
    modules = prunable(net)
    for name, module in modules.items():
        prune.custom_from_mask(module, _WEIGHT, masks[name])
    try:
        if scope == "layer":
            for name, module in modules.items():
                count = _excess(masks[name], max(1, round(level * masks[name].numel())))
                prune.l1_unstructured(module, _WEIGHT, amount=count)
        else:
            every = torch.cat([mask.flatten() for mask in masks.values()])
            count = _excess(every, max(1, round(level * every.numel())))
            pairs = [(module, _WEIGHT) for module in modules.values()]
            scores = None
            if scope == "adaptive":
                weights = (adaptive_scores(getattr(module, _WEIGHT).detach()) for module in modules.values())
                scores = dict(zip(pairs, weights, strict=True))
            prune.global_unstructured(pairs, prune.L1Unstructured, importance_scores=scores, amount=count)
        return {name: module.get_buffer(f"{_WEIGHT}_mask").clone() for name, module in modules.items()}
    finally:
        for module in modules.values():
            _restore(module)


def adaptive_scores(weight: torch.Tensor) -> torch.Tensor:
    """Scores of a layer's weights that can be compared between layers: LAMP (Lee et al. 2021, arXiv 2010.07611).

    A weight's square as a share of the sum of all squares of its layer that are no smaller. The largest has 1, the most
    that any has, so small layers keep their last weights.

    Args:
        weight: of a layer, zeros where weights were removed.

    Returns:
        Scores of the same shape, in float64, between 0 and 1.
    """
    squares, order = weight.double().square().flatten().sort(stable=True)
    sums = squares.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order] = squares / sums.clamp_min(torch.finfo(sums.dtype).tiny)
    return scores.reshape(weight.shape)


def _excess(mask: torch.Tensor, wanted: int) -> int:
    return max(0, int(mask.sum()) - wanted)


def _restore(module: nn.Module) -> None:
    """Takes the masks off and leaves the weights as they were, where ``prune.remove`` would leave zeros."""
    original = module.get_parameter(f"{_WEIGHT}_orig").detach().clone(memory_format=torch.preserve_format)
    prune.remove(module, _WEIGHT)
    module.get_parameter(_WEIGHT).data = original


@dataclass(frozen=True)
class MaskedTicket:
    """A net of which weights are set to zero.

    Attributes:
        arch: the net.
        space: its macro-architecture.
        masks: of each prunable module: 1 where a weight remains.
        scope: of which weights the smallest go; see :func:`smallest_removed`.
        dropout: before the classifier, in training.
    """

    arch: Arch
    space: Space
    masks: Mapping[str, torch.Tensor]
    scope: Scope = "global"
    dropout: float = 0.0

    @classmethod
    def whole(cls, arch: Arch, space: Space, scope: Scope, dropout: float) -> MaskedTicket:
        """All weights."""
        net = build_net(arch, space)
        masks = {name: torch.ones_like(module.get_parameter(_WEIGHT)) for name, module in prunable(net).items()}
        return cls(arch, space, masks, scope, dropout)

    @property
    def size(self) -> Size:
        """See :attr:`.ticket.Ticket.size`."""
        kept = [int(mask.sum()) for mask in self.masks.values()]
        total = sum(mask.numel() for mask in self.masks.values())
        return Size(sum(kept), sum(kept) / total, kept.count(0))

    def build(self, weights: Tensors) -> ArchNet:
        """See :meth:`.ticket.Ticket.build`."""
        net = build_net(self.arch, self.space, self.dropout)
        net.load_state_dict(weights)
        return self._masked(net)

    def control(self, seed: int) -> ArchNet:
        """See :meth:`.ticket.Ticket.control`."""
        with seeded(seed):
            return self._masked(build_net(self.arch, self.space, self.dropout))

    def _masked(self, net: ArchNet) -> ArchNet:
        for name, module in prunable(net).items():
            prune.custom_from_mask(module, _WEIGHT, self.masks[name])
            # Computed again in every forward pass; only a tensor without history can be copied for the moving average.
            setattr(module, _WEIGHT, getattr(module, _WEIGHT).detach())
        return net

    def plain(self, net: ArchNet) -> ArchNet:
        """See :meth:`.ticket.Ticket.plain`."""
        for module in prunable(net).values():
            if prune.is_pruned(module):  # the dense net has no masks
                prune.remove(module, _WEIGHT)
        return net

    def pruned(self, trained: ArchNet, level: float) -> Ticket:
        """See :meth:`.ticket.Ticket.pruned`; ``level`` is a share of the prunable weights."""
        masks = smallest_removed(trained, self.masks, level, self.scope)
        return MaskedTicket(self.arch, self.space, masks, self.scope, self.dropout)
