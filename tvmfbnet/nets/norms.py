"""Batch norm over several blocks at once, and over several processes: exact, with each block's own statistics.

Batch norm treats every channel for itself. Channels of several blocks that lie side by side in one tensor are
therefore normalised by one call, with the blocks' parameters side by side; each block's running statistics are
updated as its own call would have done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F


def joined_norm(
    x: torch.Tensor,
    norms: Sequence[nn.BatchNorm2d],
    orders: Sequence[torch.Tensor | None] | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Batch norm of channels of several blocks that lie side by side.

    Args:
        x: (N, sum of the norms' channels, H, W).
        norms: one a block; all in the same mode.
        orders: for each norm which of its channels stands at each place; None: in order.
        scale: a factor of the result for each norm, (len(norms),).
    """
    first = norms[0]
    places = orders or [None] * len(norms)
    weight, bias = _joined([n.weight for n in norms], places), _joined([n.bias for n in norms], places)
    if scale is not None:
        factors = scale.repeat_interleave(torch.tensor([n.num_features for n in norms], device=scale.device))
        weight, bias = weight * factors, bias * factors
    mean, var = _joined([_mean(n) for n in norms], places), _joined([_var(n) for n in norms], places)
    y = F.batch_norm(x, mean, var, weight, bias, first.training, first.momentum or 0.0, first.eps)
    if first.training:
        _store(norms, places, mean, var)
    return y


def _joined(tensors: Sequence[torch.Tensor], orders: Sequence[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([t if order is None else t[order] for t, order in zip(tensors, orders, strict=True)])


@torch.no_grad()
def _store(
    norms: Sequence[nn.BatchNorm2d], orders: Sequence[torch.Tensor | None], mean: torch.Tensor, var: torch.Tensor
) -> None:
    """Writes joined running statistics back to their norms."""
    sizes = [norm.num_features for norm in norms]
    for norm, order, new_mean, new_var in zip(norms, orders, mean.split(sizes), var.split(sizes), strict=True):
        if order is None:
            _mean(norm).copy_(new_mean)
            _var(norm).copy_(new_var)
        else:
            _mean(norm)[order] = new_mean
            _var(norm)[order] = new_var
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1


def _mean(norm: nn.BatchNorm2d) -> torch.Tensor:
    assert norm.running_mean is not None  # for the type checker: all norms here track statistics
    return norm.running_mean


def _var(norm: nn.BatchNorm2d) -> torch.Tensor:
    assert norm.running_var is not None
    return norm.running_var
