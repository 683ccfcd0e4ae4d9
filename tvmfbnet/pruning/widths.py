"""Widths of blocks: which ones a block may be narrowed to, and which of them a net gets to meet a latency."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tvmfbnet.errors import ConstraintError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.blocks import BlockSpec, NarrowedSpec, parse_block
from tvmfbnet.space.space import Space


@dataclass(frozen=True)
class Width:
    """A width of a block.

    Attributes:
        channels: inside the block.
        block: its name; that of the whole block at its full width.
    """

    channels: int
    block: str


def widths_of(arch: Arch, space: Space, index: int, multiple: int) -> tuple[Width, ...]:
    """The widths of the block at a layer, from the full one down; empty where it cannot be narrowed.

    Args:
        arch, space: the dense net.
        index: of the layer.
        multiple: the narrower widths are multiples of this.
    """
    spec = parse_block(arch.blocks[index])
    if not isinstance(spec, BlockSpec) or spec.groups > 1:
        return ()
    full = spec.inner(space.layers[index].cin)
    below = range((full - 1) // multiple * multiple, 0, -multiple)
    narrower = [Width(channels, NarrowedSpec(spec, channels).name) for channels in below]
    return (Width(full, spec.name), *narrower) if narrower else ()


def widths_space(arch: Arch, space: Space, multiple: int) -> Space:
    """The space of all nets that an arch can be narrowed to: its latency table is what pruning decides by.

    Raises:
        ConstraintError: no block can be narrowed.
    """
    widths = [widths_of(arch, space, index, multiple) for index in range(len(space.layers))]
    if not any(widths):
        raise ConstraintError(
            f"no block can be narrowed to a multiple of {multiple} channels: those with grouped convs stay whole"
        )
    candidates = (
        tuple(width.block for width in layer_widths) or (block,)
        for layer_widths, block in zip(widths, arch.blocks, strict=True)
    )
    return _with_blocks(space, candidates)


def narrowed_arch(arch: Arch, space: Space, channels: Mapping[int, int]) -> tuple[Arch, Space]:
    """A net of which some layers' blocks have fewer channels inside, and the space that has it alone.

    Args:
        arch, space: the dense net.
        channels: of each narrowed layer.
    """
    blocks = list(arch.blocks)
    for index, count in channels.items():
        spec = parse_block(blocks[index])
        if isinstance(spec, BlockSpec) and count < spec.inner(space.layers[index].cin):
            blocks[index] = NarrowedSpec(spec, count).name
    return Arch(tuple(blocks)), _with_blocks(space, [(block,) for block in blocks])


def _with_blocks(space: Space, candidates: Iterable[tuple[str, ...]]) -> Space:
    layers = (replace(layer, blocks=blocks) for layer, blocks in zip(space.layers, candidates, strict=True))
    return replace(space, layers=tuple(layers))


@dataclass(frozen=True)
class Narrowing:
    """A width that a layer's block may get.

    Attributes:
        channels: inside the block.
        latency_ms: of the block.
        lost: share of the block's magnitude that goes, 0 to 1.
    """

    channels: int
    latency_ms: float
    lost: float


def choose_widths(options: Mapping[int, Sequence[Narrowing]], now_ms: float, target_ms: float) -> dict[int, int]:
    """The channels of each layer that is narrowed: always the step that saves most latency per loss of magnitude.

    A step may pass widths that save nothing, as kernels take the same time over ranges of widths.

    Args:
        options: of each layer, from its present width down.
        now_ms: latency of the net at its present widths.
        target_ms: latency to meet.

    Raises:
        ConstraintError: no narrowing saves any more, and the net is still slower.
    """
    at = dict.fromkeys(options, 0)
    while now_ms > target_ms:
        steps = (
            ((here.latency_ms - there.latency_ms) / max(there.lost - here.lost, 1e-12), index, place)
            for index, widths in options.items()
            for here in (widths[at[index]],)
            for place, there in enumerate(widths[at[index] + 1 :], start=at[index] + 1)
        )
        rate, index, place = max(steps, key=lambda step: (step[0], -step[1], -step[2]), default=(0.0, 0, 0))
        if rate <= 0:
            raise ConstraintError(
                f"narrower blocks save nothing more at {now_ms:.4g} ms, and the target is {target_ms:.4g} ms; "
                "give a higher --latency-target, or prune a smaller net"
            )
        now_ms -= options[index][at[index]].latency_ms - options[index][place].latency_ms
        at[index] = place
    return {index: options[index][place].channels for index, place in at.items() if place}
