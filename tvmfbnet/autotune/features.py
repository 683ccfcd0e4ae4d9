"""What the cost model sees of a candidate: figures of its kernel's shape and of its knobs.

Plain data, no TVM. Their order is that of :data:`FEATURES`; trees that were fitted to other features are useless.
"""

from __future__ import annotations

import math

from tvmfbnet.autotune.cpu_space import PADDINGS
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import ORDERS, Knobs, summed
from tvmfbnet.autotune.parallel_tiles import chunks, evenness
from tvmfbnet.autotune.registers import MOST_TAPS, Registers, accumulators, vectors

# Multiply-adds a core could do while a parallel loop is launched and joined: 5 us at 40 G multiply-adds/s.
_LAUNCH_PRODUCTS = 200_000
# What a load costs in multiply-adds that issue in its place, with a margin against noise; a loop's own instructions.
_LOAD, _LOOP = 3.0, 4.0
# In order, the share of a multiply-add's slot that putting two loaded halves together takes.
_INSERT = 0.5

FEATURES = (
    *("rows", "columns", "channels", "lanes", "unroll", "order", "padding", "accumulators", "loads_per_product"),
    *("tile_input_kb", "tile_weights_kb", "tiles", "strips", "full_vectors", "rows_share", "columns_share"),
    *("kind", "height", "width", "out_channels", "kernel", "stride", "reduction", "group", "extra"),
    *("log_products", "weights_kb", "input_kb"),
    *("threads", "parallel", "log_chunks", "evenness", "parallel_share"),
)
_KINDS = ("conv", "depthwise", "matmul", "pool", "move")


def features(shape: KernelShape, knobs: Knobs, registers: Registers) -> list[float]:
    """Features of a candidate for the cost model, in the order of :data:`FEATURES`."""
    shape = summed(shape, knobs)
    window = shape.kernel**2 * shape.reduction
    positions = knobs.rows * knobs.columns
    sums = accumulators(shape, knobs, registers)
    loads = loads_per_product(shape, knobs, registers)
    deep = shape.channels if shape.kind == "depthwise" else shape.reduction * (shape.channels // max(shape.group, 1))
    tile_height = (knobs.rows - 1) * shape.stride + shape.kernel
    tile_width = (knobs.columns - 1) * shape.stride + shape.kernel
    tile_depth = knobs.channels if shape.kind == "depthwise" else shape.reduction
    kilobytes = shape.element_bytes / 1024
    return [
        *(float(knobs.rows), float(knobs.columns), float(knobs.channels), float(knobs.lanes), float(knobs.unroll)),
        *(float(ORDERS.index(knobs.order)), float(PADDINGS.index(knobs.padding)), float(sums), loads),
        tile_height * tile_width * tile_depth * kilobytes,
        window * knobs.channels * kilobytes,
        math.log2(shape.height * shape.width * shape.channels / (positions * knobs.channels)),
        math.log2(shape.channels / knobs.channels),
        knobs.lanes / registers.lanes(shape.sum_bytes),
        knobs.rows / shape.height,
        knobs.columns / shape.width,
        *(float(_KINDS.index(shape.kind)), float(shape.height), float(shape.width), float(shape.channels)),
        *(float(shape.kernel), float(shape.stride), float(shape.reduction), float(shape.group), float(shape.extra)),
        math.log2(shape.products),
        window * shape.channels * kilobytes,
        shape.height * shape.width * shape.stride**2 * deep * kilobytes,
        *(float(registers.threads), float(knobs.parallel), math.log2(chunks(shape, knobs))),
        evenness(shape, knobs, registers),
        parallel_share(shape, knobs, registers),
    ]


def loads_per_product(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Vector loads and broadcasts per vector multiply-add: a tile's main figure of merit."""
    shape = summed(shape, knobs)
    wide = vectors(shape, knobs.channels, knobs.lanes, registers)
    positions = shape.positions(knobs.rows, knobs.columns)
    if shape.kind in ("depthwise", "pool"):
        height = (knobs.rows - 1) * shape.stride + shape.kernel
        width = (knobs.columns - 1) * shape.stride + shape.kernel
        weights = 0 if _keeps_weights(shape, knobs, registers) else shape.kernel**2
        return (height * width + weights) / (positions * shape.kernel**2)
    return (positions / max(1, knobs.staged) + wide) / (positions * wide)


def load_slots(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Heuristic for CPUs whose multiply-adds read registers: what issues beside one, in multiply-adds in its place.

    Loads of whole registers, broadcasts, the instructions of the loop itself, and tests for the border of an image
    whose padding is never stored, or copying the input if it is. In order, loads of half a register and of scalars are
    free, others count twice.
    """
    shape = summed(shape, knobs)
    wide = vectors(shape, knobs.channels, knobs.lanes, registers)
    positions = shape.positions(knobs.rows, knobs.columns)
    window = shape.kernel**2 if shape.kind in ("conv", "depthwise") else 1
    around = _LOOP / (window * knobs.unroll * positions * wide) + _padding_slots(shape, knobs)
    if registers.in_order and shape.kind == "conv":
        staged = positions / knobs.staged if knobs.staged * shape.element_bytes == registers.vector_bytes else 0.0
        return 2.0 * _LOAD * (staged + wide) / (positions * wide) + around
    cost = _LOAD * loads_per_product(shape, knobs, registers)
    if registers.in_order and shape.kind == "depthwise":
        cost *= _INSERT if knobs.staged else 2.0
    return cost + around


def _padding_slots(shape: KernelShape, knobs: Knobs) -> float:
    """What padding costs in slots of one multiply-add: a test for each, or a load and a store of the input's copy."""
    if not shape.padded or knobs.padding == "border":
        return 0.0
    return 1.0 if knobs.padding == "inline" else 2.0 * _LOAD * shape.stride**2 / (shape.group * shape.kernel**2)


def _keeps_weights(shape: KernelShape, knobs: Knobs, registers: Registers) -> bool:
    """Whether the weights of a depthwise tile stay in registers for the tiles of the innermost loop, over pixels.

    They do where the register budget counts them: x86 reads them from memory as it multiplies.
    """
    kept = shape.kind == "depthwise" and not registers.reads_operands and not knobs.order.endswith("c")
    return kept and shape.kernel**2 <= MOST_TAPS


def parallel_share(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Heuristic: a kernel's time, launching threads included, as a share of its single-threaded time."""
    if not knobs.parallel:
        return 1.0
    return 1.0 / (registers.threads * evenness(shape, knobs, registers)) + _LAUNCH_PRODUCTS / shape.products
