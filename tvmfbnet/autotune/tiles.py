"""What the hand-written schedules share: the blocks of a kernel, where input is padded, parallel loops over tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.compiler.border_loops import mark_loop

# Widths in which padded input is written, the widest that fits first; narrower machines use several registers.
_VECTOR_BYTES = (64, 32, 16)
# How TVM knows a block that brings weights into the order of their use; compiling runs it once, when weights are known.
_PREPACKS = "meta_schedule.layout_rewrite_preproc"
# How often unrolling may repeat what packs taps.
_MOST_COPIES = 32


@dataclass(frozen=True)
class KernelBlocks:
    """The blocks of a kernel: those before the sum, the sum, and its epilogue, the output last."""

    before: tuple[Any, ...]
    total: Any | None
    after: tuple[Any, ...]


def finish_tiles(schedule: Schedule, blocks: KernelBlocks, outer: list[Any], shape: KernelShape, knobs: Knobs) -> int:
    """Pads, packs weights in the order of their use, and makes loops over tiles parallel, once tiles are scheduled.

    Returns:
        How many loops are outside the tile: the batch axis and those over tiles. The next is the reduction's first.
    """
    for block in blocks.before[-1:]:
        if knobs.padding == "border" and knobs.staged:
            _load_in_halves(schedule, block, schedule.get_loops(blocks.total)[len(outer) + 1], knobs)
        else:
            _place_padding(schedule, block, outer, shape, knobs)
    cut = "".join(axis for axis, is_cut in zip("cx", shape.cuts(knobs.columns, knobs.channels), strict=True) if is_cut)
    if "c" in cut:
        pack_weights(schedule, blocks.total, knobs.lanes)
    else:
        ms.postproc.RewriteLayout().apply(schedule)
    outside = len(outer) + 1
    if knobs.parallel:
        _make_parallel(schedule, blocks, knobs)
        outside -= knobs.parallel - 1
    order = knobs.order.replace("y", "") if "x" in cut else knobs.order
    _mark_cuts(schedule, blocks.after[-1], order, knobs.parallel, "yx" if knobs.padding == "border" else cut)
    return outside


def pack_weights(schedule: Schedule, total: Any, width: int) -> None:
    """Brings weights into the order of groups of ``width`` output channels: one after the other, each side by side."""
    packed = schedule.cache_read(total, 1, "global")
    schedule.annotate(packed, _PREPACKS, True)

    def order(*axes: Any) -> list[Any]:
        *window, channel = axes
        return [channel // width, *window, channel % width]

    schedule.transform_layout(total, ("read", 1), order)


def _mark_cuts(schedule: Schedule, last: Any, order: str, parallel: int, cut: str) -> None:
    """Has loops over tiles cut where the last tile or those at the image's borders differ from the others.

    Not those that one parallel loop fuses.
    """
    axes = ["" if parallel > 1 else order[0], *order[max(1, parallel) :]]
    for axis, loop in zip(axes, schedule.get_loops(last)[1:], strict=False):
        if axis and axis in cut:
            mark_loop(schedule, loop)


def _make_parallel(schedule: Schedule, blocks: KernelBlocks, knobs: Knobs) -> None:
    """Fuses the outermost loops over tiles into one parallel loop; padding computed up front gets its own."""
    loops = schedule.get_loops(blocks.after[-1])[1 : 1 + knobs.parallel]
    schedule.parallel(schedule.fuse(*loops) if len(loops) > 1 else loops[0])
    if knobs.padding == "whole":
        for block in blocks.before[-1:]:
            rows = schedule.get_loops(block)[1]
            schedule.parallel(rows)


def _load_in_halves(schedule: Schedule, block: Any, row: Any, knobs: Knobs) -> None:
    """Loads the padded input of each row of taps in halves of a register, which issue beside multiply-adds in order.

    LLVM puts the halves together, as what is multiplied is read whole.
    """
    schedule.set_scope(block, 0, "local")
    schedule.compute_at(block, row, preserve_unit_loops=True)
    *pixels, channels = schedule.get_loops(block)[-len(schedule.get(block).iter_vars) :]
    vectors, half = schedule.split(channels, [None, knobs.staged])
    for loop in (*pixels, vectors):
        schedule.unroll(loop)
    schedule.vectorize(half)


def _place_padding(schedule: Schedule, block: Any, outer: list[Any], shape: KernelShape, knobs: Knobs) -> None:
    """Computes padded input where the knobs say: inside the loops ``outer`` over tiles, up front, or as it is read."""
    if knobs.padding in ("inline", "border"):
        schedule.compute_inline(block)
        return
    if knobs.padding != "whole":
        at = outer[0] if knobs.padding == "outer" else outer[1]
        schedule.compute_at(block, at, preserve_unit_loops=True)
    innermost = schedule.get_loops(block)[-1]
    if shape.dot_pixels > 1:  # a pixel's bytes of one instruction
        schedule.vectorize(innermost)
        return
    extent = int(schedule.get(innermost).extent)
    widths = (width // shape.element_bytes for width in _VECTOR_BYTES)
    lanes = next((lanes for lanes in widths if lanes > 1 and extent % lanes == 0), 1)
    if lanes > 1:
        _, inner = schedule.split(innermost, [None, lanes])
        schedule.vectorize(inner)
    if shape.dot and shape.kind == "depthwise" and knobs.padding != "whole":
        _unroll_inner(schedule, schedule.get_loops(block)[:-1])


def _unroll_inner(schedule: Schedule, loops: list[Any]) -> None:
    """Unrolls the innermost loops, outside a vector, to code without branches at the borders of the image."""
    copies = 1
    for loop in reversed(loops):
        copies *= int(schedule.get(loop).extent)
        if copies > _MOST_COPIES:
            break
        schedule.unroll(loop)
