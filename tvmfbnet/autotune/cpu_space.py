"""Every sensible way to schedule a kernel on a CPU. Plain data, no TVM.

A kernel has hundreds to a few thousand knob settings, few enough to enumerate. So proposing candidates is almost free,
unlike TVM's evolutionary search, and the cost model transfers from kernel to kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import ORDERS, Knobs, divisors
from tvmfbnet.autotune.parallel_tiles import parallel_ways
from tvmfbnet.autotune.registers import Registers, accumulators, holds_window, operands, vectors

# Larger tiles only spill registers or bloat the code.
_MAX_ROWS, _MAX_COLUMNS = 7, 28
# Sizes of good tiles where registers are few: pixels, and vectors of channels of each.
_FEW_PIXELS, _FEW_VECTORS = (3, 4, 5, 6), (2, 3, 4)
_UNROLLS = (1, 2, 4, 8)
# Input channels up to which ARM kernels may have no loop over them: a tile's stores then overlap with its products.
_FEW_STEPS = 32
# Products that sums in half may have; longer ones are made of chunks of at most that many, of two lengths.
_SHORT_SUM, _CHUNKS = 32, (32, 16, 24, 8)
# Where padded input may be computed, and where stored.
PADDINGS = ("inline", "whole", "outer", "middle", "border")
_STORED = ("whole", "outer", "middle")


def all_knobs(shape: KernelShape, registers: Registers) -> list[Knobs]:
    """Every sensible way to schedule a kernel; never empty.

    Parallel ones only on targets with threads, and sums in half only on CPUs that compute with halves.
    """
    if shape.kind == "move":
        serial = [
            Knobs(1, columns, lanes, lanes)
            for lanes in _lanes(shape.channels, registers.lanes(shape.element_bytes))
            for columns in divisors(shape.width, 8)
        ]
    else:
        serial = _tiled(shape, registers)
        if shape.narrows and registers.halves:
            narrow = replace(shape, sum_bytes=shape.element_bytes)
            serial += [
                replace(knobs, sum_bytes=narrow.sum_bytes, chunk=chunk)
                for knobs in _tiled(narrow, registers)
                for chunk in _chunks(shape)
                if chunk % knobs.unroll == 0
            ]
    return [way for knobs in serial for way in (knobs, *parallel_ways(shape, knobs, registers))]


def _tiled(shape: KernelShape, registers: Registers) -> list[Knobs]:
    serial = [knobs for knobs in _tiles(shape, registers) if _worthwhile(shape, knobs, registers)]
    return serial or list(_tiles(shape, registers))


def _worthwhile(shape: KernelShape, knobs: Knobs, registers: Registers) -> bool:
    """Whether a tile hides multiply-add latency; tiles of kernels too small for that need only match the kernel."""
    most = shape.height * shape.width * math.ceil(shape.channels / registers.lanes(shape.sum_bytes))
    return accumulators(shape, knobs, registers) >= min(4, most)


def _tiles(shape: KernelShape, registers: Registers) -> Iterator[Knobs]:
    spans = shape.channels if shape.kind in ("depthwise", "pool") else shape.span
    orders = _orders(shape, registers)
    for lanes in [shape.dot_lanes] if shape.dot else _widths(shape, spans, registers):
        channels = [tile for tile in divisors(spans) if tile % lanes == 0 and tile // lanes <= registers.count]
        channels += _cut_channels(shape, lanes, registers)
        rows, columns = divisors(shape.height, _MAX_ROWS), divisors(shape.width, _MAX_COLUMNS)
        if shape.height % shape.dot_rows == 0:  # else no tile of more rows begins with the same one everywhere
            rows = [row for row in rows if row % shape.dot_rows == 0 or row == 1]
        # Tiles end between pairs of pixels, or with the row.
        columns = [column for column in columns if column % shape.dot_pixels == 0 or column == shape.width] or columns
        for tile, (row, column) in product(channels, [*product(rows, columns), *_cut_pixels(shape, registers)]):
            positions, wide = shape.positions(row, column), vectors(shape, tile, lanes, registers)
            free = registers.count - positions * wide
            distinct = [order for order in orders if order != "ycx"] if shape.runs_on(column) else orders
            fitting = [order for order in distinct if operands(shape, positions, wide, registers, order) <= free]
            for order, unroll, padding in product(fitting, _unrolls(shape, registers), _paddings(shape, registers)):
                for staged in _stages(shape, unroll, padding, registers):
                    knobs = Knobs(row, column, tile, lanes, order, unroll, padding, staged=staged)
                    if shape.kind != "depthwise" or not staged or holds_window(shape, knobs, wide, registers):
                        yield knobs


def _cut_pixels(shape: KernelShape, registers: Registers) -> list[tuple[int, int]]:
    """Tiles of one row and more pixels than fit into it, where rows and columns of the image leave none of a good size.

    An image of 7x7 pixels is ten tiles of 5, the last one cut. In few registers, one of 7 has room for one vector each,
    whose sums do not hide the latency of multiply-adds.
    """
    whole = {row * column for row in divisors(shape.height) for column in divisors(shape.width)}
    if not _takes_cut_tiles(shape, registers) or whole.intersection(_FEW_PIXELS):
        return []
    few = [pixels for pixels in _FEW_PIXELS if pixels < shape.height * shape.width]
    return [(1, pixels) for pixels in few if shape.runs_on(pixels)]


def _cut_channels(shape: KernelShape, lanes: int, registers: Registers) -> list[int]:
    """Tiles of channels that do not divide them, the last one cut, where none of a good size does: of 184 in vectors
    of 8, for example."""
    wide, fit = shape.group // lanes, lanes == registers.lanes(shape.sum_bytes)
    few = [tile for tile in _FEW_VECTORS if tile <= wide]
    if not fit or shape.group % lanes or shape.group < shape.channels or not _takes_cut_tiles(shape, registers):
        return []
    return [] if any(wide % tile == 0 for tile in few) else [tile * lanes for tile in few]


def _takes_cut_tiles(shape: KernelShape, registers: Registers) -> bool:
    """Whether tiles may end with the image or the channels: those of pointwise kernels on CPUs with few registers."""
    pointwise = shape.kind == "conv" and shape.kernel == shape.stride == 1 and not shape.padded and not shape.dot
    return pointwise and registers.reads_operands and registers.count <= 16 and registers.vector_bytes > 0


def _orders(shape: KernelShape, registers: Registers) -> tuple[str, ...]:
    """Orders of the loops over tiles.

    Down a column of tiles, LLVM keeps few addresses of a depthwise kernel's input. Along a short row it joins the
    tiles, whose addresses spill; CPUs that execute in order wait for them.
    """
    if shape.height * shape.width == 1:
        return ORDERS[:1]
    return ORDERS if shape.kind == "depthwise" and registers.in_order else ORDERS[:3]


def _widths(shape: KernelShape, channels: int, registers: Registers) -> list[int]:
    """Vector widths of a tile's sums.

    Narrow vectors pay where registers are wide: NEON's need as many instructions as whole ones. Its integer products
    take the lower and upper half of a register of eight, which is loaded and widened as one.
    """
    full = registers.lanes(shape.sum_bytes)
    if registers.reads_operands:
        return _lanes(channels, full)
    return _lanes(channels, full if shape.sum_bytes != 4 * shape.element_bytes else 2 * full, 1)


def _lanes(channels: int, full: int, most: int = 3) -> list[int]:
    """Vector widths that divide ``channels``: full, half and quarter registers; if none does, the widest divisor."""
    standard = [lanes for lanes in (full, full // 2, full // 4) if lanes > 1]
    fitting = [lanes for lanes in standard if channels % lanes == 0]
    return fitting[:most] or [divisors(channels, full)[-1]]


def _unrolls(shape: KernelShape, registers: Registers) -> list[int]:
    """Unroll factors of the loop over input channels; the first leaves no loop, where there are few."""
    fitting = [unroll for unroll in _UNROLLS if shape.steps % unroll == 0]
    if registers.reads_operands or shape.kind != "conv" or shape.dot or not max(_UNROLLS) < shape.steps <= _FEW_STEPS:
        return fitting
    return [shape.steps, *fitting]


def _paddings(shape: KernelShape, registers: Registers) -> tuple[str, ...]:
    """Where padded input may be computed."""
    if shape.dot_pixels > 1:
        return _STORED if shape.padded else ("inline", *_STORED)  # where pairs of pixels are put together
    if shape.dot and shape.padded:
        return _STORED if shape.height * shape.width > 1 else _STORED[:1]  # instructions read memory
    if not shape.padded or not registers.vector_bytes:  # stored padding is written as vectors
        return ("inline",)
    return ("inline" if registers.reads_operands else "border", *_STORED)


def _stages(shape: KernelShape, unroll: int, padding: str, registers: Registers) -> list[int]:
    """How many channels of a pixel may be loaded at once: full and half registers that divide the unrolled ones."""
    readable = not shape.padded or padding in _STORED  # a padded pixel that is never stored cannot be loaded whole
    full = registers.lanes(shape.element_bytes)
    if registers.reads_operands or shape.dot or shape.sum_bytes != shape.element_bytes:
        return [0]
    if shape.kind == "depthwise" and registers.in_order and padding == "border" and full > 2:
        return [0, full // 2]
    if shape.kind != "conv":
        return [0]
    fitting = [lanes for lanes in (full, full // 2) if lanes > 1 and unroll % lanes == 0 and readable]
    return fitting or [0]


def _chunks(shape: KernelShape) -> list[int]:
    """Lengths of narrowed sums: short ones as a whole, and of long ones chunks whose rounding does not add up."""
    window = shape.kernel**2
    if window * shape.reduction <= _SHORT_SUM:
        return [0]
    fitting = [chunk for chunk in _CHUNKS if shape.reduction % chunk == 0 and window * chunk <= 2 * _SHORT_SUM]
    return [chunk for chunk in fitting if chunk < shape.reduction][:2] or [0]
