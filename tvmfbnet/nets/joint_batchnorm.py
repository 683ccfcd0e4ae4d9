"""Batch norm over several blocks at once, and over several processes: exact, with each block's own statistics.

Batch norm treats every channel for itself. Channels of several blocks that lie side by side in one tensor are
therefore normalised by one call, with the blocks' parameters side by side; each block's running statistics are
updated as its own call would have done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import cast

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce as functional_all_reduce
from torch.nn import functional as F

from tvmfbnet.nets.precision import full_precision, widened


def joined_norm(
    x: torch.Tensor,
    norms: Sequence[nn.BatchNorm2d],
    orders: Sequence[torch.Tensor | None] | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Batch norm of channels of several blocks that lie side by side.

    Args:
        x: (N, sum of the norms' channels, H, W).
        norms: one per block; all in the same mode.
        orders: for each norm which of its channels stands at each place; None: in order.
        scale: a factor of the result for each norm, (len(norms),).
    """
    first = norms[0]
    places = orders or [None] * len(norms)
    weight, bias = _joined([n.weight for n in norms], places), _joined([n.bias for n in norms], places)
    if scale is not None:
        factors = scale.repeat_interleave(torch.tensor([n.num_features for n in norms], device=scale.device))
        weight, bias = weight * factors, bias * factors
    if first.training and isinstance(first, SharedNorm):
        return _shared_norm(x, norms, places, weight, bias)
    mean, var = _joined([_mean(n) for n in norms], places), _joined([_var(n) for n in norms], places)
    y = F.batch_norm(x, mean, var, weight, bias, first.training, first.momentum or 0.0, first.eps)
    if first.training:
        _store(norms, places, mean, var)
    return y


class SharedNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' images. torch's own way to do that needs a GPU."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedNorm:
        """The same norm, with the very tensors of ``norm``, over all processes."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters, shared._buffers = norm._parameters, norm._buffers
        return shared.train(norm.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises (N, C, H, W)."""
        return joined_norm(x, [self])


def _shared_norm(
    x: torch.Tensor,
    norms: Sequence[nn.BatchNorm2d],
    orders: Sequence[torch.Tensor | None],
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    seen = x.numel() // x.shape[1] * distributed.get_world_size()
    with full_precision(x):
        images = widened(x)
        mean = _over_processes(images.mean(dim=(0, 2, 3)))
        centred = images - mean[:, None, None]
        var = _over_processes(centred.square().mean(dim=(0, 2, 3)))
        update_statistics(norms, orders, mean.detach(), var.detach(), seen)
        scale = weight * (var + norms[0].eps).rsqrt()
        return (centred * scale[:, None, None] + bias[:, None, None]).to(x.dtype)


def _over_processes(mean: torch.Tensor) -> torch.Tensor:
    """The mean over all processes, differentiable in each one's part."""
    total: torch.Tensor = functional_all_reduce(mean)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


class LayerInput:
    """The input of several 1x1 convs with batch norms behind them, and what these norms need to know of it.

    The convs' outputs' statistics follow from the input's: ``mean(W x) = W mean(x)`` and ``var(W x) = diag(W cov(x)
    W^T)``, where the covariance is a small matrix for an input with few channels. So the norms are folded into the
    convs also in training, and autograd goes through the folding.

    Args:
        x: (N, cin, H, W), channels last.
        norms: those behind the convs; all in the same mode.
    """

    def __init__(self, x: torch.Tensor, norms: Sequence[nn.BatchNorm2d]) -> None:
        self.shape = x.shape
        # (pixels, cin)
        self.flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        self._training, self._shared = norms[0].training, isinstance(norms[0], SharedNorm)

    @cached_property
    def rows(self) -> torch.Tensor:
        """(pixels, cin + 1). The column of ones carries the bias: to add it is a pass over the whole output, twice."""
        return torch.cat([self.flat, self.flat.new_ones(len(self.flat), 1)], dim=1)

    @cached_property
    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = widened(self.flat)
        mean = self._reduced(pixels.mean(dim=0))
        centred = pixels - mean
        return mean, self._reduced(centred.t() @ centred / len(pixels))

    def _reduced(self, mean: torch.Tensor) -> torch.Tensor:
        return _over_processes(mean) if self._shared else mean

    def folded(
        self, weights: torch.Tensor, norms: Sequence[nn.BatchNorm2d], orders: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """The matrix (cin + 1, channels) that takes :attr:`rows` through a conv and its norms.

        Args:
            weights: (channels, cin) of the conv.
            norms: one per block.
            orders: see :func:`joined_norm`.
        """
        with full_precision(self.flat):
            return self._folded(weights, norms, orders)

    def _folded(
        self, weights: torch.Tensor, norms: Sequence[nn.BatchNorm2d], orders: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        gain, bias = _joined([n.weight for n in norms], orders), _joined([n.bias for n in norms], orders)
        if self._training:
            mean_x, covariance = self._moments
            mean, var = weights @ mean_x, ((weights @ covariance) * weights).sum(dim=1)
            seen = len(self.flat) * (distributed.get_world_size() if self._shared else 1)
            update_statistics(norms, orders, mean.detach(), var.detach(), seen)
        else:
            mean, var = _joined([_mean(n) for n in norms], orders), _joined([_var(n) for n in norms], orders)
        scale = gain * (var + norms[0].eps).rsqrt()
        return torch.cat([weights * scale[:, None], (bias - mean * scale)[:, None]], dim=1).t()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keeps all running statistics of ``module`` as they are while it runs a second time on the same batch."""
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    before = [(norm.momentum, _batches(norm).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            _batches(norm).copy_(batches)


@torch.no_grad()
def update_statistics(
    norms: Sequence[nn.BatchNorm2d],
    orders: Sequence[torch.Tensor | None],
    mean: torch.Tensor,
    var: torch.Tensor,
    count: int,
) -> None:
    """Moves running statistics towards those of a batch, as torch's batch norm does (variance without bias)."""
    momentum = norms[0].momentum or 0.0
    old_mean, old_var = _joined([_mean(n) for n in norms], orders), _joined([_var(n) for n in norms], orders)
    _store(norms, orders, old_mean.lerp(mean, momentum), old_var.lerp(var * (count / max(count - 1, 1)), momentum))


def _joined(tensors: Sequence[torch.Tensor], orders: Sequence[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([t if order is None else t[order] for t, order in zip(tensors, orders, strict=True)])


@torch.no_grad()
def _store(
    norms: Sequence[nn.BatchNorm2d], orders: Sequence[torch.Tensor | None], mean: torch.Tensor, var: torch.Tensor
) -> None:
    """Writes joined running statistics back to their norms."""
    sizes = [norm.num_features for norm in norms]
    means, variances = torch.split(mean, sizes), torch.split(var, sizes)
    for norm, order, new_mean, new_var in zip(norms, orders, means, variances, strict=True):
        if order is None:
            _mean(norm).copy_(new_mean)
            _var(norm).copy_(new_var)
        else:
            _mean(norm)[order] = new_mean
            _var(norm)[order] = new_var
        _batches(norm).add_(1)


# All norms here keep running statistics; torch's types cannot say so.


def _mean(norm: nn.BatchNorm2d) -> torch.Tensor:
    return cast(torch.Tensor, norm.running_mean)


def _var(norm: nn.BatchNorm2d) -> torch.Tensor:
    return cast(torch.Tensor, norm.running_var)


def _batches(norm: nn.BatchNorm2d) -> torch.Tensor:
    return cast(torch.Tensor, norm.num_batches_tracked)
