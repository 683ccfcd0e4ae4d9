"""Schedules of kernels that sum integer dot products: the pattern of :mod:`.templates` around one instruction.

A tile's sums stay in registers as 32-bit lanes. Each step of the reduction broadcasts a group of activations and
multiplies it with the weights of a tile's channels, which are prepacked in the order in which tiles read them. Output
channels are padded to whole lanes; what the padding adds up is never stored.
"""

from __future__ import annotations

from typing import Any

from tvm.ir import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.kernel_shape import KernelShape, Kind
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.tiles import KernelBlocks, finish_tiles
from tvmfbnet.compiler.dot_products import DOT_PRODUCTS, intrinsic_name
from tvmfbnet.compiler.integer_kernels import DOT, WINDOW
from tvmfbnet.compiler.tap_products import register_integer_intrinsics, tap_intrinsic, window_starts

_REDUCE = 2  # tvm.tirx.IterVar.CommReduce
# What kernels compute, by the number of axes of their sums. A conv has five (batch, y, x, group and channel), one of
# pairs also the two of a tile.
_KINDS: dict[int, Kind] = {4: "depthwise", 2: "matmul"}
# Packed taps of a depthwise convolution, as tiles read them.
_WORD_BYTES = 4
# Widths in which results are written, the widest that divides the channels first.
_WIDTHS = (16, 8, 4, 2, 1)


def is_dot(schedule: Schedule, total: Any) -> bool:
    """Whether a block sums dot products of an instruction."""
    return DOT in schedule.get(total).annotations


def dot_shape(mod: IRModule, schedule: Schedule, blocks: KernelBlocks) -> KernelShape:
    """What such a kernel computes."""
    total = schedule.get(blocks.total)
    name, lanes = str(total.annotations[DOT]).split()
    dot = DOT_PRODUCTS[name]
    kernel, stride, reduction, copied = (int(number) for number in str(total.annotations[WINDOW]).split())
    spatial = [int(axis.dom.extent) for axis in total.iter_vars if axis.iter_type != _REDUCE]
    *image, channels = (int(size) for size in ArgInfo.from_prim_func(mod["main"])[-1].shape)
    height, width = image[1:] if len(image) == 3 else (1, 1)
    kind = _KINDS.get(len(spatial), "conv")
    group = channels // spatial[3] if kind == "conv" else channels
    return KernelShape(
        kind,
        height,
        width,
        channels,
        kernel,
        stride,
        reduction,
        group,
        bool(blocks.before) if dot.pixels == 1 else bool(copied),
        len(blocks.after),
        element_bytes=_WORD_BYTES if kind == "depthwise" else 2 if dot.weights == "int16" else 1,
        dot=dot.name,
        dot_group=dot.group,
        dot_lanes=int(lanes),
        dot_pixels=dot.pixels,
        dot_rows=window_starts(dot, stride) if kind == "depthwise" else 1,
    )


def schedule_dot(schedule: Schedule, blocks: KernelBlocks, shape: KernelShape, knobs: Knobs) -> None:
    """Schedules a kernel in place; what can be inlined is inlined already."""
    register_integer_intrinsics()
    total = blocks.total
    outer = _tile_output(schedule, blocks.after[-1], shape, knobs)
    schedule.set_scope(total, 0, "local")
    schedule.compute_at(total, outer[-1], preserve_unit_loops=True)
    lanes = _tile_sum(schedule, total, shape, knobs)
    outside = finish_tiles(schedule, blocks, outer, shape, knobs)
    init = schedule.decompose_reduction(total, schedule.get_loops(total)[outside])
    *loops, inner = schedule.get_loops(init)[outside:]
    if shape.dot_pixels > 1:
        inner = schedule.fuse(loops.pop(), inner)
    for loop in loops:
        schedule.unroll(loop)
    schedule.vectorize(inner)
    dot, strided = DOT_PRODUCTS[shape.dot], shape.dot_pixels > 1 and knobs.padding == "inline"
    is_taps = shape.kind == "depthwise"
    schedule.tensorize(
        lanes,
        tap_intrinsic(dot, shape.dot_lanes) if is_taps else intrinsic_name(dot, shape.dot_lanes, strided),
    )


def _tile_output(schedule: Schedule, last: Any, shape: KernelShape, knobs: Knobs) -> list[Any]:
    """Splits the output into tiles; returns the loops over tiles, outermost first."""
    loops = schedule.get_loops(last)
    # Tiles of pairs are taken apart before, so their lanes are no limit. Where packs saturate, two registers of sums
    # take little more than one.
    widest = shape.dot_lanes if shape.dot_pixels == 1 else knobs.channels
    if DOT_PRODUCTS[shape.dot].saturates and knobs.channels % (2 * widest) == 0:
        widest *= 2
    width = next(width for width in _WIDTHS if widest % width == 0 and shape.group % width == 0)
    channel, groups = loops[-1], []
    if shape.group < shape.channels:
        group, channel = schedule.split(channel, [None, shape.group])
        groups = [group]
    vectors, lanes = schedule.split(channel, [None, width])
    tiles, inner = schedule.split(vectors, [None, knobs.channels // width])
    split = {"c": ([*groups, tiles], inner)}
    if len(loops) == 4:
        for axis, loop, size in (("y", loops[1], knobs.rows), ("x", loops[2], knobs.columns)):
            outside, inside = schedule.split(loop, [None, size])
            split[axis] = ([outside], inside)
    outer = [loop for axis in knobs.order if axis in split for loop in split[axis][0]]
    inside = [split[axis][1] for axis in "yxc" if axis in split]
    schedule.reorder(*outer, *inside, lanes)
    for loop in inside:
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    return outer


def _tile_sum(schedule: Schedule, total: Any, shape: KernelShape, knobs: Knobs) -> Any:
    """Orders the sum's loops: the reduction outside, a register tile inside; returns the loop of the instruction."""
    axes = schedule.get(total).iter_vars
    loops = schedule.get_loops(total)[-len(axes) :]
    spatial = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != _REDUCE]
    *window, steps, group = (loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == _REDUCE)
    deep, unrolled = schedule.split(steps, [None, knobs.unroll])
    if shape.dot_pixels > 1:
        *tiles, pixels, lanes = spatial[1:]
        first, inner = pixels, [pixels, lanes]
    else:
        vectors, first = schedule.split(spatial[-1], [None, knobs.lanes])
        tiles, inner = [*spatial[1:-1], vectors], [first]
    if shape.dot_rows > 1:
        # Rows have weights of their own, and one register of channels at a time needs fewest.
        (words, taps), (rows, columns, vectors) = window, tiles
        schedule.reorder(words, deep, unrolled, vectors, rows, taps, columns, *inner, group)
    else:
        schedule.reorder(*window, deep, unrolled, *tiles, *inner, group)
    for loop in (*window, unrolled, *tiles):
        schedule.unroll(loop)
    return first
