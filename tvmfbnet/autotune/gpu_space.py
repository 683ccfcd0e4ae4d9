"""Every sensible way to schedule a kernel on a GPU, and what the cost model sees of one. Plain data, no TVM."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import product

from tvmfbnet.autotune.gpu_knobs import ACROSS, GpuKnobs, thread_work
from tvmfbnet.autotune.gpu_model import (
    GpuModel,
    arithmetic_cycles,
    fits,
    load_cycles,
    occupancy,
    registers_used,
    slowness,
)
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import divisors

# Kinds of kernels that GPU templates schedule; others, such as those of integers, go through MetaSchedule's search.
KINDS = ("conv", "depthwise", "matmul", "pool", "move")
# A thread's tile, elements: larger ones need more registers than any of these GPUs has.
_MAX_ROWS, _MAX_COLUMNS, _CHANNELS = 4, 8, (16, 8, 4, 2, 1)
# Vectors of these GPUs' loads, elements; the widest that divides is used.
_LANES = (4, 2, 1)
# Work groups are of whole multiples of this many threads, a warp of most of these GPUs, where the kernel allows it.
_WHOLE = 16
# Ways of one kernel that are kept: those that the model ranks first.
_MOST_WAYS = 1500

FEATURES = (
    *("rows", "columns", "channels", "lanes", "pixels", "vectors", "staged", "unroll", "across", "threads"),
    *("registers", "occupancy", "arithmetic", "loads", "model", "loads_per_product", "log_threads", "full_warps"),
    *("kind", "height", "width", "out_channels", "kernel", "stride", "reduction", "group", "extra", "log_products"),
)


def has_template(shape: KernelShape) -> bool:
    """Whether a GPU template schedules a kernel of this shape; not those of integers."""
    return shape.kind in KINDS and not shape.dot and shape.element_bytes in (2, 4) and shape.sum_bytes <= 4


def gpu_ways(shape: KernelShape, model: GpuModel) -> list[GpuKnobs]:
    """Every sensible way within the GPU's limits, at most 1500 of them, those first that the model expects fastest.

    Where every tile spills registers, as those of huge windows do, the least are left. Empty where no template fits.
    """
    ways = list(_ways(shape, model)) if has_template(shape) else []
    ways = [knobs for knobs in ways if fits(shape, knobs, model)] or ways
    return heapq.nsmallest(_MOST_WAYS, ways, key=lambda knobs: slowness(shape, knobs, model))


def _ways(shape: KernelShape, model: GpuModel) -> Iterator[GpuKnobs]:
    if shape.kind == "move":
        yield from _moves(shape, model)
        return
    rows = divisors(shape.height, _MAX_ROWS if shape.kernel > 1 else 2) if shape.stride == 1 else [1]
    columns = divisors(shape.width, _MAX_COLUMNS)
    span = shape.group if shape.kind == "conv" else shape.channels
    tiles = [tile for tile in _CHANNELS if span % tile == 0]
    for row, column, tile in product(rows, columns, tiles):
        lanes = next(lanes for lanes in _LANES if tile % lanes == 0)
        if lanes < min(_LANES[0], tiles[0]):
            continue  # wider vectors fit this kernel
        groups = list(_groups(shape, (shape.height // row) * (shape.width // column), tile, model))
        for (staged, unroll), (pixels, vectors), across in product(_steps(shape), groups, ACROSS):
            if across == ACROSS[0] or (pixels > 1 and vectors > 1):
                yield GpuKnobs(row, column, tile, lanes, pixels, vectors, staged, unroll, across)


def _moves(shape: KernelShape, model: GpuModel) -> Iterator[GpuKnobs]:
    """Element by element: only vectors and work groups differ."""
    for lanes in (lanes for lanes in _LANES if shape.channels % lanes == 0):
        threads = divisors(shape.height * shape.width * shape.channels // lanes, model.most_threads)
        whole = [count for count in threads if count % _WHOLE == 0]
        for count in whole or threads[-1:]:
            yield GpuKnobs(1, 1, lanes, lanes, 1, count)


def _groups(shape: KernelShape, pixels: int, tile: int, model: GpuModel) -> Iterator[tuple[int, int]]:
    """Sizes of work groups: threads along tiles of the image and of the channels.

    A work group's channels are those of one group of a grouped convolution, or of whole ones.
    """
    vectors = shape.channels // tile
    sizes = [
        (along, deep)
        for along, deep in product(divisors(pixels, model.most_threads), divisors(vectors, model.most_threads))
        if along * deep <= model.most_threads and (shape.kind != "conv" or _aligned(deep * tile, shape.group))
    ]
    whole = [size for size in sizes if math.prod(size) % _WHOLE == 0]
    enough = [size for size in sizes if math.prod(size) >= min(_WHOLE, pixels * vectors)]
    yield from whole or enough or sizes[-1:]


def _aligned(channels: int, group: int) -> bool:
    return channels % group == 0 or group % channels == 0


def _steps(shape: KernelShape) -> list[tuple[int, int]]:
    """Input channels that one access loads, and such accesses per iteration."""
    if shape.kind in ("depthwise", "pool"):
        return [(1, unroll) for unroll in sorted({1, shape.kernel})]
    staged = next(lanes for lanes in _LANES if shape.reduction % lanes == 0)
    steps = shape.reduction // staged
    return [(staged, unroll) for unroll in (1, 2, 3, 4) if steps % unroll == 0]


def gpu_features(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> list[float]:
    """Features of a candidate for the cost model, in the order of :data:`FEATURES`."""
    work = thread_work(shape, knobs)
    threads = shape.height * shape.width * shape.channels / (knobs.rows * knobs.columns * knobs.channels)
    accesses = work.input_loads + work.weight_loads + work.other_accesses
    return [
        *(float(knobs.rows), float(knobs.columns), float(knobs.channels), float(knobs.lanes)),
        *(float(knobs.pixels), float(knobs.vectors), float(knobs.staged), float(knobs.unroll)),
        *(float(ACROSS.index(knobs.across)), float(knobs.threads)),
        float(registers_used(shape, knobs)),
        occupancy(shape, knobs, model),
        arithmetic_cycles(shape, knobs, model) / work.products,
        load_cycles(shape, knobs, model) / work.products,
        slowness(shape, knobs, model),
        accesses / work.products,
        math.log2(threads),
        knobs.threads / (math.ceil(knobs.threads / model.warp) * model.warp),
        *(float(KINDS.index(shape.kind)), float(shape.height), float(shape.width), float(shape.channels)),
        *(float(shape.kernel), float(shape.stride), float(shape.reduction), float(shape.group), float(shape.extra)),
        math.log2(shape.products),
    ]
