"""Hand-written CPU schedules: a kernel's TIR and its knobs in, a scheduled kernel out.

All share one pattern: the output is split into tiles that fit the vector registers; a tile's sums stay in registers
during the reduction; bias, residual and activation are applied as the tile is stored; weights are prepacked in the
order in which tiles read them. On targets with threads, loops over tiles may run in parallel. The results are TVM
schedules with a trace, so they live in the same database as those of MetaSchedule's search, and are applied at compile
time in the same way. A batch is a loop outside all of these: each image is computed as if it were the only one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm
from tvm.ir import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.dot_templates import dot_shape, is_dot, schedule_dot
from tvmfbnet.autotune.gpu_knobs import GpuKnobs
from tvmfbnet.autotune.gpu_templates import model_of, schedule_on_gpu
from tvmfbnet.autotune.kernel_shape import KernelShape, Kind
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.machines import AnyKnobs, Machine
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.tiles import KernelBlocks, finish_tiles
from tvmfbnet.batches import LARGEST_BATCH
from tvmfbnet.compiler.integer_kernels import WINDOW
from tvmfbnet.compiler.stack_buffers import is_x86
from tvmfbnet.compiler.wide_sums import HALF
from tvmfbnet.dtypes import bytes_of
from tvmfbnet.targets.tvm_target import compiles_for_cpu

_SPATIAL, _REDUCE = 0, 2  # tvm.tirx.IterVar.DataPar and CommReduce
# ARM cores of LLVM that execute in order and whose loads are half a vector register wide.
_IN_ORDER = ("cortex-a35", "cortex-a53", "cortex-a55")
_CONVS = ("conv2d_nhwc", "group_conv2d_nhwc")


def machine_of(target: tvm.target.Target) -> Machine:
    """What templates know about a target's CPU or GPU."""
    return registers_of(target) if compiles_for_cpu(target) else model_of(target)


def registers_of(target: tvm.target.Target) -> Registers:
    """The vector registers of a CPU target, from its enabled features, and the threads that a kernel may use."""
    from tvm.target.codegen import llvm_get_cpu_features, llvm_get_system_triple, llvm_get_vector_width

    if target.kind.name != "llvm":
        return Registers(16, 0)  # C has no vectors or parallel loops; its compiler vectorises scalars
    threads = int(target.attrs.get("num-cores", 1))
    if not is_x86(target):
        machine = str(target.attrs.get("mtriple") or llvm_get_system_triple()).split("-")[0]
        few = machine.startswith(("arm", "thumb")) and not machine.startswith("arm64")
        width, halves = int(llvm_get_vector_width(target)), "fullfp16" in llvm_get_cpu_features(target)
        in_order = str(target.attrs.get("mcpu", "")) in _IN_ORDER
        return Registers(16 if few else 32, max(width // 8, 16), threads, halves, False, in_order)
    # TVM reports 512 bits for every x86.
    features = {str(feature) for feature in llvm_get_cpu_features(target)}
    if "avx512f" in features:
        return Registers(32, 64, threads, "avx512fp16" in features)
    return Registers(16, 32 if "avx" in features else 16, threads)


def shape_of(mod: IRModule) -> KernelShape | None:
    """What a kernel computes; None where no template fits it."""
    schedule = Schedule(mod)
    blocks = _blocks(schedule)
    shape = None if blocks is None else _loops_of(mod, schedule, blocks)
    if blocks is None or shape is None:
        return None
    if shape.dot:
        return shape
    element_bytes = bytes_of(ArgInfo.from_prim_func(mod["main"])[0].dtype)
    if blocks.total is None:
        return replace(shape, element_bytes=element_bytes, sum_bytes=element_bytes)
    (written,) = schedule.get(blocks.total).writes
    return replace(shape, element_bytes=element_bytes, sum_bytes=bytes_of(written.source.dtype))


def _loops_of(mod: IRModule, schedule: Schedule, blocks: KernelBlocks) -> KernelShape | None:
    """The shape apart from the sizes of its elements."""
    if blocks.total is None:
        *outer, width, channels = _output_shape(mod)
        return KernelShape("move", _product(outer), width, channels) if outer else None
    if is_dot(schedule, blocks.total):
        return dot_shape(mod, schedule, blocks)
    total = schedule.get(blocks.total)
    spatial = [int(axis.dom.extent) for axis in total.iter_vars if axis.iter_type != _REDUCE]
    reduced = [int(axis.dom.extent) for axis in total.iter_vars if axis.iter_type == _REDUCE]
    extra = len(blocks.after)
    if total.name_hint in _CONVS and len(spatial) == 4 and len(reduced) == 3:
        return _conv_shape(mod, schedule, blocks, spatial, reduced)
    if total.name_hint == "matmul" and len(spatial) == 2 and spatial[0] <= LARGEST_BATCH:
        return KernelShape("matmul", 1, 1, spatial[1], reduction=reduced[0], group=spatial[1], extra=extra)
    if len(reduced) == 2 and len(spatial) == 4 and spatial[1:3] == [1, 1] and reduced[0] == reduced[1]:
        return KernelShape("pool", 1, 1, spatial[3], kernel=reduced[0], group=spatial[3], extra=extra)
    return None


def _conv_shape(
    mod: IRModule, schedule: Schedule, blocks: KernelBlocks, spatial: list[int], reduced: list[int]
) -> KernelShape | None:
    _, height, width, channels = spatial
    kernel, other, reduction = reduced
    source = ArgInfo.from_prim_func(mod["main"])[0].shape
    if WINDOW in schedule.get(blocks.total).annotations:
        return _widening_shape(schedule, blocks, spatial)
    if kernel != other or len(blocks.before) != 1:
        return None
    stride, inputs = round(int(source[1]) / height), int(source[3])
    groups = inputs // reduction
    padded = [int(axis.dom.extent) for axis in schedule.get(blocks.before[0]).iter_vars][1:3] != [
        int(size) for size in source[1:3]
    ]
    kind: Kind = "depthwise" if groups == channels and groups > 1 else "conv"
    group = channels // groups
    return KernelShape(kind, height, width, channels, kernel, stride, reduction, group, padded, len(blocks.after))


def _widening_shape(schedule: Schedule, blocks: KernelBlocks, spatial: list[int]) -> KernelShape:
    """A convolution of integers without a dot product, whose input may be an image that is quantised as it is read."""
    text = str(schedule.get(blocks.total).annotations[WINDOW])
    kernel, stride, reduction, padded = (int(number) for number in text.split())
    _, height, width, channels = spatial
    inputs = int(schedule.get(blocks.before[-1]).iter_vars[-1].dom.extent)
    group, extra = channels * reduction // inputs, len(blocks.after)
    kind: Kind = "depthwise" if group == reduction == 1 and inputs > 1 else "conv"
    return KernelShape(kind, height, width, channels, kernel, stride, reduction, group, bool(padded), extra)


def _output_shape(mod: IRModule) -> list[int]:
    return [int(size) for size in ArgInfo.from_prim_func(mod["main"])[-1].shape]


def _product(values: list[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _blocks(schedule: Schedule) -> KernelBlocks | None:
    """Finds the blocks; None where there is more than one sum or output."""
    root = schedule.get_sblock("root", "main")
    blocks = list(schedule.get_child_blocks(root))
    if len(schedule.get_output_blocks(root)) != 1:
        return None
    sums = [
        index
        for index, block in enumerate(blocks)
        if any(axis.iter_type == _REDUCE for axis in schedule.get(block).iter_vars)
    ]
    if len(sums) > 1:
        return None
    if not sums:
        return KernelBlocks((), None, tuple(blocks))
    at = sums[0]
    return KernelBlocks(tuple(blocks[:at]), blocks[at], tuple(blocks[at + 1 :])) if blocks[at + 1 :] else None


def apply_knobs(mod: IRModule, shape: KernelShape, knobs: AnyKnobs) -> Schedule:
    """Schedules a kernel.

    Args:
        mod: the kernel, one function ``main``.
        shape: of the kernel, from :func:`shape_of`.
        knobs: one of :func:`tvmfbnet.autotune.machines.ways_of`.
    """
    schedule = Schedule(mod)
    blocks = _blocks(schedule)
    if blocks is None:
        raise ValueError("no template fits this kernel")
    for block in (*blocks.before[:-1], *blocks.after[:-1]):
        schedule.compute_inline(block)
    if isinstance(knobs, GpuKnobs):
        schedule_on_gpu(schedule, blocks, shape, knobs)
    elif blocks.total is None:
        _move(schedule, blocks.after[-1], knobs)
    elif shape.dot:
        schedule_dot(schedule, blocks, shape, knobs)
    else:
        _tile(schedule, blocks, shape, knobs)
    return schedule


def _move(schedule: Schedule, last: Any, knobs: Knobs) -> None:
    *outer, row, channel = schedule.get_loops(last)
    if knobs.parallel:
        schedule.parallel(schedule.fuse(*outer))
    if knobs.lanes > 1:
        _, inner = schedule.split(channel, [None, knobs.lanes])
        schedule.vectorize(inner)
    if knobs.columns > 1:
        _, inner = schedule.split(row, [None, knobs.columns])
        schedule.unroll(inner)


def _tile(schedule: Schedule, blocks: KernelBlocks, shape: KernelShape, knobs: Knobs) -> None:
    total, last = blocks.total, blocks.after[-1]
    if shape.runs_on(knobs.columns):
        _flatten(schedule, total, last, shape.width)
    partial = _narrow(schedule, total, knobs) if knobs.sum_bytes else None
    outer = _tile_output(schedule, last, knobs)
    schedule.set_scope(total, 0, "local")
    schedule.compute_at(total, outer[-1], preserve_unit_loops=True)
    if partial is None:
        _tile_sum(schedule, total, shape, knobs)
    else:
        _tile_chunks(schedule, total, partial, len(outer) + 1, knobs)
        _tile_sum(schedule, partial, shape, knobs)
    outside = finish_tiles(schedule, blocks, outer, shape, knobs)
    if knobs.staged and shape.kind == "conv":
        _stage(schedule, partial if partial is not None else total)
    _decompose(schedule, total, outside)
    if partial is not None:  # within the loop over chunks
        _decompose(schedule, partial, outside + 1)


def _flatten(schedule: Schedule, total: Any, last: Any, width: int) -> None:
    """Makes the image one row of pixels, so that a tile that has no room in its row runs on into the next."""
    schedule.transform_layout(total, ("write", 0), lambda n, y, x, c: (n, y * width + x, c))
    schedule.transform_block_layout(total, lambda n, y, x, c, _, __, k: (n, y * width + x, c, k))
    schedule.transform_block_layout(last, lambda n, y, x, c: (n, y * width + x, c))


def _decompose(schedule: Schedule, total: Any, outside: int) -> None:
    """Zeroes a tile's sums before their reduction, which starts with the loop at ``outside``."""
    init = schedule.decompose_reduction(total, schedule.get_loops(total)[outside])
    for loop in schedule.get_loops(init)[outside:-1]:
        schedule.unroll(loop)


def _narrow(schedule: Schedule, total: Any, knobs: Knobs) -> Any | None:
    """Keeps the sum in half: all of it, or chunks of it, each of which is then added to a float32 sum.

    :func:`tvmfbnet.compiler.wide_sums.narrow_half_sums` compiles both to arithmetic in half.

    Returns:
        The block that sums up one chunk; None without chunks.
    """
    if not knobs.chunk:
        schedule.unsafe_set_dtype(total, 0, HALF)
        return None
    chunks, _ = schedule.split(schedule.get_loops(total)[-1], [None, knobs.chunk])
    partial = schedule.rfactor(chunks, 0)
    schedule.unsafe_set_dtype(partial, 0, HALF)
    schedule.set_scope(partial, 0, "local")
    return partial


def _tile_chunks(schedule: Schedule, total: Any, partial: Any, outside: int, knobs: Knobs) -> None:
    """Adds each chunk's sums to those of a tile: one loop over chunks, in which ``partial`` is computed."""
    chunks, *spatial = schedule.get_loops(total)[outside:]
    vector, lanes = schedule.split(spatial[-1], [None, knobs.lanes])
    for loop in (*spatial[:-1], vector):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    schedule.compute_at(partial, chunks, preserve_unit_loops=True)


def _tile_output(schedule: Schedule, last: Any, knobs: Knobs) -> list[Any]:
    """Splits the output into tiles; returns the loops over tiles, outermost first."""
    loops = schedule.get_loops(last)
    vectors, lanes = schedule.split(loops[-1], [None, knobs.lanes])
    split = {"c": schedule.split(vectors, [None, knobs.channels // knobs.lanes])}
    if len(loops) == 4:
        split["y"] = schedule.split(loops[1], [None, knobs.rows])
    if len(loops) > 2:
        split["x"] = schedule.split(loops[len(loops) - 2], [None, knobs.columns])
    order = [axis for axis in knobs.order if axis in split]
    outer = [split[axis][0] for axis in order]
    inner = [split[axis][1] for axis in "yxc" if axis in split]
    schedule.reorder(*outer, *inner)
    for loop in inner:
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    return outer


def _tile_sum(schedule: Schedule, total: Any, shape: KernelShape, knobs: Knobs) -> None:
    """Orders the sum's loops: the reduction outside, a register tile inside."""
    axes = schedule.get(total).iter_vars
    loops = schedule.get_loops(total)[-len(axes) :]
    spatial = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type != _REDUCE]
    reduced = [loop for loop, axis in zip(loops, axes, strict=True) if axis.iter_type == _REDUCE]
    vector, lanes = schedule.split(spatial[-1], [None, knobs.lanes])
    if shape.kind == "pool":
        schedule.reorder(*reduced, *spatial[:-1], vector, lanes)
        unrolled = reduced[-1:]
    else:
        deep, *steps = schedule.split(reduced[-1], [None, *_steps(shape, knobs)])
        schedule.reorder(*reduced[:-1], deep, *steps, *spatial[:-1], vector, lanes)
        unrolled = [*reduced[:-1], *steps]
    for loop in (*unrolled, *spatial[1:-1], vector):
        schedule.unroll(loop)
    schedule.vectorize(lanes)


def _steps(shape: KernelShape, knobs: Knobs) -> list[int]:
    """Extents of the unrolled loops over input channels: over vectors of channels, and over those of one."""
    vectors = knobs.staged and shape.kind == "conv"
    return [knobs.unroll // knobs.staged, knobs.staged] if vectors else [knobs.unroll]


def _stage(schedule: Schedule, total: Any) -> None:
    """Loads the input of a tile's sum as vectors of channels, one for each pixel, before their lanes are used."""
    axes = [axis.iter_type for axis in schedule.get(total).iter_vars]
    # The innermost loops are those over lanes, vectors of a tile and other spatial axes; the last reduction loop is
    # the one over the channels of one vector.
    at = schedule.get_loops(total)[-(axes.count(_SPATIAL) + 3)]
    staged = schedule.cache_read(total, 0, "local")
    schedule.compute_at(staged, at, preserve_unit_loops=True)
    *pixels, channels = schedule.get_loops(staged)[-len(schedule.get(staged).iter_vars) :]
    for loop in pixels:
        schedule.unroll(loop)
    schedule.vectorize(channels)
