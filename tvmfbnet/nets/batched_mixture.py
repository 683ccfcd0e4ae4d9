"""The mixture of a layer's blocks computed as a few large operations: the same function as block by block, but faster.

The blocks of a layer read the same input, so the first 1x1 convs of those that share kernel size and activation run as
one conv: a grouped one becomes dense with zeros, and the channel shuffle behind it a reordering of its rows. Their
depthwise convs then run as one over all their channels. Batch norm works channel by channel, so over the joined
channels it computes what each block's own does. What remains is one matrix product a block for the projection, whose
batch norm, weight in the mixture and sum over the blocks are one operation (:mod:`tvmfbnet.nets.joint_batchnorm`). In
training on a CPU all of it is one operation that hardly keeps anything (:mod:`tvmfbnet.nets.fused_mbconv`).

Nothing is stored twice: weights and statistics stay those of the blocks and are joined again in each step, which costs
little beside the convs. All images are channels last, so that a slice of channels is a matrix without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.nets.blocks import FBNetBlock
from tvmfbnet.nets.depthwise import depthwise_conv
from tvmfbnet.nets.fused_mbconv import Shape, fused_band
from tvmfbnet.nets.joint_batchnorm import LayerInput, SharedNorm, joined_norm, update_statistics
from tvmfbnet.nets.precision import is_autocast


@dataclass(frozen=True)
class Band:
    """Blocks of a layer whose first two convs run as one each: those with one kernel size and one activation."""

    indices: tuple[int, ...]
    kernel: int
    activation: str


def bands_of(blocks: Sequence[nn.Module]) -> tuple[Band, ...]:
    """Divides the conv blocks of a layer in bands; ``skip`` is in none."""
    indices_by_kind: dict[tuple[int, str], list[int]] = {}
    for index, block in enumerate(blocks):
        if isinstance(block, FBNetBlock):
            indices_by_kind.setdefault((block.spec.kernel, block.spec.activation), []).append(index)
    return tuple(Band(tuple(indices), *key) for key, indices in indices_by_kind.items())


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
    total = None
    convs = [block for band in bands for block in _of(blocks, band)]
    if convs:
        given = LayerInput(x, [block.bn1 for block in convs])
        fused = [band for band in bands if _is_fused(_of(blocks, band), x)]
        parts = [_fused(_of(blocks, band), given, _weights(band, mix)) for band in fused]
        others = [band for band in bands if band not in fused]
        if others:
            hidden = [h for band in others for h in _inner(_of(blocks, band), given)]
            unfused = [block for band in others for block in _of(blocks, band)]
            parts.append(_projected(unfused, hidden, torch.cat([_weights(band, mix) for band in others])))
        total = sum(parts[1:], start=parts[0])
        if convs[0].has_residual:  # all or none: it depends on the layer alone
            passed = torch.cat([_weights(band, mix) for band in bands]).sum()
            same_dtype = total.dtype == x.dtype == passed.dtype  # under autocast images are bfloat16, weights are not
            total = torch.addcmul(total, x, passed) if same_dtype else total + passed * x
    for index, block in enumerate(blocks):
        if not isinstance(block, FBNetBlock):
            out = mix[index] * block(x)
            total = out if total is None else total + out
    if total is None:
        raise ValueError("a layer without blocks has no mixture")
    return total


def _weights(band: Band, mix: torch.Tensor) -> torch.Tensor:
    return mix[torch.tensor(band.indices, device=mix.device)]


def _of(blocks: Sequence[nn.Module], band: Band) -> list[FBNetBlock]:
    return [block for index in band.indices if isinstance(block := blocks[index], FBNetBlock)]


def _is_fused(blocks: list[FBNetBlock], x: torch.Tensor) -> bool:
    """Whether a band can be computed as one operation (:mod:`tvmfbnet.nets.fused_mbconv`)."""
    first = blocks[0]
    return (
        first.training
        and not isinstance(first.bn1, SharedNorm)
        and first.spec.activation == "relu"
        and not any(block.spec.squeeze_excite for block in blocks)
        and x.device.type == "cpu"
        and not is_autocast(x)
    )


def _fused(blocks: list[FBNetBlock], given: LayerInput, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of a band's blocks but for the addition of their input, (N, cout, H', W')."""
    count, _, height, width = given.shape
    shape = Shape(count, height, width, blocks[0].conv_dw.stride[0])
    middle, last = [block.bn2 for block in blocks], [block.bn3 for block in blocks]
    scaled = weights.repeat_interleave(last[0].num_features)
    rows, middle_seen, last_seen = fused_band(
        given.flat,
        given.rows.detach(),
        shape,
        _first_matrix(blocks, given),
        torch.cat([block.conv_dw.weight for block in blocks]),
        (torch.cat([norm.weight for norm in middle]), torch.cat([norm.bias for norm in middle])),
        [_dense(block.conv_pwl).flatten(1).t() for block in blocks],
        (torch.cat([norm.weight for norm in last]) * scaled, torch.cat([norm.bias for norm in last]) * scaled),
        middle[0].eps,
    )
    for norms, seen in ((middle, middle_seen), (last, last_seen)):
        update_statistics(norms, [None] * len(norms), seen.mean, seen.var, len(rows))
    _, height, width = shape.inner
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)


def _inner(blocks: list[FBNetBlock], given: LayerInput) -> list[torch.Tensor]:
    """The inputs of the projections of a band's blocks: slices (N, inner, H', W') of one tensor."""
    count, _, height, width = given.shape
    act = blocks[0].act1
    # The activation comes before the view: in place on a view, autograd would copy the whole gradient.
    y = act(given.rows @ _first_matrix(blocks, given)).view(count, height, width, -1).permute(0, 3, 1, 2)
    kernels = torch.cat([block.conv_dw.weight for block in blocks])
    y = depthwise_conv(y, kernels, blocks[0].conv_dw.stride[0])
    y = act(joined_norm(y, [block.bn2 for block in blocks]))
    slices = y.split([block.conv_dw.in_channels for block in blocks], dim=1)
    return [block.se(part) for block, part in zip(blocks, slices, strict=True)]


def _first_matrix(blocks: list[FBNetBlock], given: LayerInput) -> torch.Tensor:
    """The first convs and norms of a band's blocks as one matrix for the layer's input."""
    orders = [_shuffled(block) for block in blocks]
    rows = torch.cat([_first_rows(block, order) for block, order in zip(blocks, orders, strict=True)])
    return given.folded(rows.flatten(1), [block.bn1 for block in blocks], orders)


@torch.no_grad()
def share_initialisation(blocks: Sequence[FBNetBlock]) -> None:
    """Gives freshly initialised blocks without a residual, in place, weights that make them compute the same.

    What such a layer hands on changes as a whole with the block that runs; layers behind it must cope with every one.
    Blocks that start as different random functions give them unrelated features, so that a supernet of many such layers
    hardly learns, and whichever block is ahead by chance is the one that the rest of the net learns to read. A wide
    block holds the narrowest one, its further channels unread at first; a large kernel holds a small one, with zeros
    around it; a dense conv holds a grouped one. Grouped blocks of other widths or groups keep their own start.
    """
    base = min(blocks, key=lambda block: (-block.spec.groups, block.spec.expansion, block.spec.kernel))
    order, channels, kernel = _shuffled(base), base.conv_dw.in_channels, base.spec.kernel
    for block in blocks:
        spec = block.spec
        same = (spec.groups, spec.expansion) == (base.spec.groups, base.spec.expansion)
        if spec.kernel < kernel or spec.expansion < base.spec.expansion or not (spec.groups == 1 or same):
            continue
        if same:
            block.conv_pw.weight.copy_(base.conv_pw.weight)
            block.conv_pwl.weight.copy_(base.conv_pwl.weight)
        else:
            block.conv_pw.weight[:channels] = _first_rows(base, order)
            block.conv_pwl.weight[:, channels:] = 0.0
            block.conv_pwl.weight[:, :channels] = _dense(base.conv_pwl)
        ring = (spec.kernel - kernel) // 2
        block.conv_dw.weight[:channels] = F.pad(base.conv_dw.weight, [ring] * 4)


def _shuffled(block: FBNetBlock) -> torch.Tensor | None:
    """The first conv's channel at each place after the channel shuffle; None without a shuffle."""
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
