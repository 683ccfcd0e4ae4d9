"""Hand-written GPU schedules for convolutions, the classifier, pooling and moves: no shared memory, no barriers.

Every thread computes one tile of the output, a few pixels times a few vectors of channels, whose sums stay in its
registers. Inputs are loaded as vectors of channels, one row of the window at a time, padding included; each is used for
all of the tile before the next. Weights are prepacked so that a work group reads them in one stream, a vector for each
thread. Bias, residual and activation are applied as a vector is stored. So no kernel needs more than its threads, which
any GPU has: MetaSchedule's rules for CUDA tile for shared memory, of which ARM's Mali has none of its own.

Kernels in OpenCL and Metal are alike: TVM prints both from these schedules.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm.s_tir import Schedule

from tvmfbnet.autotune.gpu_knobs import ACROSS, GpuKnobs
from tvmfbnet.autotune.gpu_model import GpuModel, gpu_model
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.tiles import KernelBlocks, pack_weights

_REDUCE = 2  # tvm.tirx.IterVar.CommReduce


def model_of(target: tvm.target.Target) -> GpuModel:
    """What is known of a GPU target; its limits are the target's."""
    return gpu_model(
        str(target.attrs.get("device") or ""), target.kind.name, int(target.attrs["max_threads_per_block"])
    )


def schedule_on_gpu(schedule: Schedule, blocks: KernelBlocks, shape: KernelShape, knobs: GpuKnobs) -> None:
    """Schedules a kernel whose blocks before the last of each side are inlined already."""
    total, last = blocks.total, blocks.after[-1]
    if total is None:
        _move(schedule, last, knobs)
        return
    innermost = _tile_output(schedule, last, knobs)
    schedule.set_scope(total, 0, "local")
    schedule.compute_at(total, innermost, preserve_unit_loops=True)
    if shape.kind == "pool":
        first = _tile_mean(schedule, total, knobs)
        for block in blocks.before[-1:]:
            schedule.compute_inline(block)
    else:
        first, window, step = _tile_sum(schedule, total, shape, knobs)
        _stage_inputs(schedule, blocks, window, shape, knobs)
        pack_weights(schedule, total, knobs.vectors * knobs.channels)
        _stage_weights(schedule, total, step, knobs)
    outside = next(at for at, loop in enumerate(schedule.get_loops(total)) if _same(schedule, loop, first))
    init = schedule.decompose_reduction(total, first)
    for loop in schedule.get_loops(init)[outside:-1]:
        schedule.unroll(loop)


def _move(schedule: Schedule, last: Any, knobs: GpuKnobs) -> None:
    """Computes a vector of elements in every thread."""
    elements = schedule.fuse(*schedule.get_loops(last))
    groups, threads, lanes = schedule.split(elements, [None, knobs.threads, knobs.lanes])
    schedule.bind(groups, "blockIdx.x")
    schedule.bind(threads, "threadIdx.x")
    if knobs.lanes > 1:
        schedule.vectorize(lanes)


def _same(schedule: Schedule, one: Any, other: Any) -> bool:
    return bool(schedule.get(one).same_as(schedule.get(other)))


def _tile_output(schedule: Schedule, last: Any, knobs: GpuKnobs) -> Any:
    """Splits the output among work groups and threads; returns the innermost loop over threads."""
    loops = schedule.get_loops(last)
    groups, vectors, channels = schedule.split(loops[-1], [None, knobs.vectors, knobs.channels])
    wide, lanes = schedule.split(channels, [None, knobs.lanes])
    inside = []
    if len(loops) == 4:
        y, rows = schedule.split(loops[1], [None, knobs.rows])
        x, columns = schedule.split(loops[2], [None, knobs.columns])
        outer, inside = [loops[0], y, x], [rows, columns]
    else:
        outer = loops[:-1]
    schedule.reorder(*outer, groups, vectors, *inside, wide, lanes)
    tiles = schedule.fuse(*outer)
    blocks, pixels = schedule.split(tiles, [None, knobs.pixels])
    order = [vectors, pixels] if knobs.across == ACROSS[0] else [pixels, vectors]
    schedule.reorder(groups, blocks, order[1], order[0])
    for loop, axis in zip(
        (blocks, groups, *order), ("blockIdx.x", "blockIdx.y", "threadIdx.x", "threadIdx.y"), strict=True
    ):
        schedule.bind(loop, axis)
    for loop in (*inside, wide):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    return order[0]


def _sum_loops(schedule: Schedule, total: Any) -> tuple[list[Any], list[Any]]:
    """The loops of a tile's sum, over its elements and over what is summed up."""
    axes = schedule.get(total).iter_vars
    loops = schedule.get_loops(total)[-len(axes) :]
    spatial = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != _REDUCE]
    return spatial, [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == _REDUCE]


def _tile_mean(schedule: Schedule, total: Any, knobs: GpuKnobs) -> Any:
    spatial, reduced = _sum_loops(schedule, total)
    wide, lanes = schedule.split(spatial[-1], [None, knobs.lanes])
    schedule.reorder(*reduced, *spatial[:-1], wide, lanes)
    for loop in (*(reduced[-1:] if knobs.unroll > 1 else []), *spatial[:-1], wide):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    return reduced[0]


def _tile_sum(schedule: Schedule, total: Any, shape: KernelShape, knobs: GpuKnobs) -> tuple[Any, Any, Any]:
    """Orders the sum's loops: rows of the window, input channels, then a row's taps, a vector's channels and the tile.

    Returns:
        The first loop of the reduction; the loop in which a row of inputs is loaded; that in which weights are.
    """
    spatial, reduced = _sum_loops(schedule, total)
    wide, lanes = schedule.split(spatial[-1], [None, knobs.lanes])
    tile = [wide, *spatial[:-1], lanes]
    *window, depth = reduced
    if shape.kind == "depthwise":
        outer, inner = [window[0]], [window[1], depth]
        unrolled = window[:1] if knobs.unroll > 1 else []
    else:
        deep, steps, channel = schedule.split(depth, [None, knobs.unroll, knobs.staged])
        outer, inner = [*window[:1], deep, steps], [*window[1:], channel]
        unrolled = [steps]
    schedule.reorder(*outer, *inner, *tile)
    for loop in (*unrolled, *inner, *tile[:-1]):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    return outer[0], outer[-1], inner[-1]


def _stage_inputs(schedule: Schedule, blocks: KernelBlocks, window: Any, shape: KernelShape, knobs: GpuKnobs) -> None:
    """Loads a row of inputs as vectors of channels; where the kernel pads its input, the padding is made here."""
    if blocks.before:
        staged = blocks.before[-1]
        schedule.set_scope(staged, 0, "local")
    else:
        staged = schedule.cache_read(blocks.total, 0, "local")
    schedule.compute_at(staged, window, preserve_unit_loops=True)
    loops = schedule.get_loops(staged)[-len(schedule.get(staged).iter_vars) :]
    _vectorise(schedule, loops, knobs.lanes if shape.kind == "depthwise" else knobs.staged)


def _stage_weights(schedule: Schedule, total: Any, step: Any, knobs: GpuKnobs) -> None:
    staged = schedule.cache_read(total, 1, "local")
    schedule.compute_at(staged, step, preserve_unit_loops=True)
    loops = schedule.get_loops(staged)[-len(schedule.get(staged).iter_vars) :]
    _vectorise(schedule, loops, knobs.lanes)


def _vectorise(schedule: Schedule, loops: list[Any], lanes: int) -> None:
    """Copies with vectors along the last loop, the others unrolled."""
    wide, inner = schedule.split(loops[-1], [None, lanes])
    for loop in (*loops[:-1], wide):
        schedule.unroll(loop)
    if lanes > 1:
        schedule.vectorize(inner)
