"""The mixture of a layer's blocks computed as a few large operations: the same function as block by block, but faster.

The blocks of a layer read the same input, so the first 1x1 convs of those that share kernel size and activation run as
one conv: a grouped one becomes dense with zeros, and the channel shuffle behind it a reordering of its rows. Their
depthwise convs then run as one over all their channels. Batch norm works channel by channel, so over the joined
channels it computes what each block's own does. What remains is one matrix product a block for the projection, whose
batch norm, weight in the mixture and sum over the blocks are one operation (:mod:`tvmfbnet.nets.norms`).

Nothing is stored twice: weights and statistics stay those of the blocks and are joined anew in each step, which costs
little beside the convs. All pictures are channels last, so that a slice of channels is a matrix without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tvmfbnet.nets.blocks import FBNetBlock
from tvmfbnet.nets.depthwise import depthwise_conv
from tvmfbnet.nets.norms import conv_and_norm, joined_norm


@dataclass(frozen=True)
class Band:
    """Blocks of a layer whose first two convs run as one each: those with one kernel size and one activation."""

    indices: tuple[int, ...]
    kernel: int
    activation: str


def bands_of(blocks: Sequence[nn.Module]) -> tuple[Band, ...]:
    """Divides the conv blocks of a layer in bands; ``skip`` is in none."""
    found: dict[tuple[int, str], list[int]] = {}
    for index, block in enumerate(blocks):
        if isinstance(block, FBNetBlock):
            found.setdefault((block.spec.kernel, block.spec.activation), []).append(index)
    return tuple(Band(tuple(indices), *key) for key, indices in found.items())


def merged_mixture(
    blocks: Sequence[nn.Module], bands: Sequence[Band], x: torch.Tensor, mix: torch.Tensor
) -> torch.Tensor:
    """``sum_i mix[i] * blocks[i](x)``.

    Args:
        blocks: the candidates of a layer.
        bands: :func:`bands_of` them.
        x: (N, cin, H, W).
        mix: one weight a block; further entries are ignored.
    """
    hidden = [h for band in bands for h in _inner(_of(blocks, band), band, x)]
    indices = [index for band in bands for index in band.indices]
    convs = [block for band in bands for block in _of(blocks, band)]
    total = None
    if convs:
        weights = mix[torch.tensor(indices, device=mix.device)]
        total = _projected(convs, hidden, weights)
        if convs[0].has_residual:  # all or none: it depends on the layer alone
            total = torch.addcmul(total, x, weights.sum())
    for index, block in enumerate(blocks):
        if not isinstance(block, FBNetBlock):
            out = mix[index] * block(x)
            total = out if total is None else total + out
    if total is None:
        raise ValueError("a layer without blocks has no mixture")
    return total


def _of(blocks: Sequence[nn.Module], band: Band) -> list[FBNetBlock]:
    return [block for index in band.indices if isinstance(block := blocks[index], FBNetBlock)]


def _inner(blocks: list[FBNetBlock], band: Band, x: torch.Tensor) -> list[torch.Tensor]:
    """What each block of a band hands to its projection: slices (N, inner, H', W') of one tensor."""
    orders = [_shuffled(block) for block in blocks]
    rows = torch.cat([_first_rows(block, order) for block, order in zip(blocks, orders, strict=True)])
    act = blocks[0].act1
    y = conv_and_norm(x, rows.flatten(1), [block.bn1 for block in blocks], orders, act)
    kernels = torch.cat([block.conv_dw.weight for block in blocks])
    y = depthwise_conv(y, kernels, blocks[0].conv_dw.stride[0])
    y = act(joined_norm(y, [block.bn2 for block in blocks]))
    slices = y.split([block.conv_dw.in_channels for block in blocks], dim=1)
    return [block.se(part) for block, part in zip(blocks, slices, strict=True)]


def _shuffled(block: FBNetBlock) -> torch.Tensor | None:
    """Which of the first conv's channels stands at each place after the channel shuffle; None without one."""
    groups, channels = block.spec.groups, block.conv_pw.out_channels
    if groups == 1:
        return None
    return torch.arange(channels, device=block.conv_pw.weight.device).view(groups, -1).t().reshape(-1)


def _first_rows(block: FBNetBlock, order: torch.Tensor | None) -> torch.Tensor:
    """The first conv's weights as a dense conv has them, rows in shuffled order: (inner, cin, 1, 1)."""
    rows = _dense(block.conv_pw)
    return rows if order is None else rows[order]


def _dense(conv: nn.Conv2d) -> torch.Tensor:
    """A grouped 1x1 conv's weights (cout, cin / groups, 1, 1) with zeros where a dense one has weights."""
    if conv.groups == 1:
        return conv.weight
    parts = conv.weight.flatten(1).chunk(conv.groups)
    dense: torch.Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return dense[:, :, None, None]


def _projected(blocks: list[FBNetBlock], hidden: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """``sum_i weights[i] * bn3_i(conv_pwl_i(hidden[i]))``, (N, cout, H', W')."""
    count, _, height, width = hidden[0].shape
    rows = [h.permute(0, 2, 3, 1).reshape(count * height * width, -1) for h in hidden]
    z = torch.cat([row @ _dense(b.conv_pwl).flatten(1).t() for b, row in zip(blocks, rows, strict=True)], dim=1)
    z = z.view(count, height, width, -1).permute(0, 3, 1, 2)
    z = joined_norm(z, [block.bn3 for block in blocks], scale=weights)
    return z.permute(0, 2, 3, 1).view(count, height, width, len(blocks), -1).sum(dim=3).permute(0, 3, 1, 2)
