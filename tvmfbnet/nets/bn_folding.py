"""Batch normalisation on the way to deployment: folded into the convs, after being randomised where nothing is trained.

An untrained block has trivial statistics (mean 0, variance 1), which would let a compiler or a bug get away with
dropping them; blocks that are only timed or tested get random ones first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def randomise_bn(module: nn.Module, seed: int) -> None:
    """Gives every batch norm in ``module``, in place, random statistics and affine parameters of ordinary size."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            for tensor, low, high in (
                (norm.running_mean, -0.5, 0.5),
                (norm.running_var, 0.5, 2.0),
                (norm.weight, 0.5, 1.5),
                (norm.bias, -0.5, 0.5),
            ):
                tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=generator))


def fold_bn(module: nn.Module) -> nn.Module:
    """A copy of ``module`` in eval mode whose batch norms are folded into their convs, which get a bias.

    Computes the same function up to rounding (relative 1e-5). ``module`` itself stays as it is.
    """
    folded = copy.deepcopy(module).eval()
    for child in folded.modules():
        for conv, norm in getattr(child, "FOLDED", _neighbours(child)):
            _fold(child, conv, norm)
    return folded


def _neighbours(module: nn.Module) -> Iterator[tuple[str, str]]:
    """The neighbours of a sequence, by name: a batch norm behind a conv there is applied to nothing else."""
    if isinstance(module, nn.Sequential):
        names = [name for name, _ in module.named_children()]
        yield from pairwise(names)


def _fold(owner: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = owner.get_submodule(conv_name), owner.get_submodule(norm_name)
    if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
        setattr(owner, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(owner, norm_name, nn.Identity())
