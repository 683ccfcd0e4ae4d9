"""The knobs of a hand-written CPU schedule: tile sizes, vector width, loop order, unrolling, padding, parallel loops.

Plain data, no TVM: :mod:`tvmfbnet.autotune.templates` applies knobs to a kernel, and
:mod:`tvmfbnet.autotune.cost_model` learns which are fast. A kernel has hundreds to a few thousand knob settings, few
enough to enumerate. So proposing candidates is almost free, unlike TVM's evolutionary search, and the cost model
transfers from kernel to kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

Kind = Literal["conv", "depthwise", "matmul", "pool", "move"]

# Larger tiles only spill registers or bloat the code.
_MAX_ROWS, _MAX_COLUMNS = 7, 28
ORDERS = ("cyx", "yxc", "ycx")
_UNROLLS = (1, 2, 4, 8)
# Input channels up to which ARM kernels may have no loop over them: a tile's stores then overlap with its products.
_FEW_STEPS = 32
# Products that sums in half may have; longer ones are made of chunks of at most that many, of two lengths.
_SHORT_SUM, _CHUNKS = 32, (32, 16, 24, 8)
PADDINGS = ("inline", "whole", "outer", "middle", "border")
_STORED = ("whole", "outer", "middle")
# Of a depthwise kernel: taps whose weights stay in registers for all tiles of a channel; registers of inputs.
MOST_TAPS, _WINDOW = 9, 3


@dataclass(frozen=True)
class Registers:
    """What schedules need to know about a CPU.

    Attributes:
        count: vector registers.
        vector_bytes: size of each; 0 where kernels have no vectors.
        threads: worker threads that a kernel may use.
        halves: whether the CPU computes with halves, not only converts them.
        reads_operands: whether multiply-adds take an operand from memory, as on x86; on ARM, weights and inputs need
            registers of their own beside the sums.
        in_order: whether it executes in order, where a load of a whole register issues alone and one of half a register
            beside a multiply-add (Cortex-A53, A55).
    """

    count: int
    vector_bytes: int
    threads: int = 1
    halves: bool = False
    reads_operands: bool = True
    in_order: bool = False

    def lanes(self, element_bytes: int) -> int:
        """Elements of that size in one register; 1 where kernels have no vectors."""
        return max(1, self.vector_bytes // element_bytes)


@dataclass(frozen=True)
class KernelShape:
    """What a kernel computes, as far as its schedule cares.

    Attributes:
        kind: ``conv`` (also grouped), ``depthwise``, ``matmul`` (one row), ``pool`` (mean over space), ``move``
            (element by element).
        height, width, channels: of the output; ``move`` counts all but the last two axes as height.
        kernel, stride: of the window; 1 for the rest.
        reduction: products summed per output element and window position (input channels of a group).
        group: output channels per group; tiles must not cross group borders.
        padded: whether the input is padded.
        extra: elementwise inputs after the sum (bias, residual).
        element_bytes: of a weight or activation.
        sum_bytes: of an accumulator; wider than an element where products of small types are added up.
        dot: the instruction that multiplies integers (:mod:`tvmfbnet.compiler.dot_products`); empty without one.
        dot_group, dot_lanes: elements that it multiplies per lane, and its lanes. Output channels of a group are padded
            to whole lanes.
        dot_pixels: neighbouring pixels that it multiplies at once.
    """

    kind: Kind
    height: int
    width: int
    channels: int
    kernel: int = 1
    stride: int = 1
    reduction: int = 1
    group: int = 1
    padded: bool = False
    extra: int = 0
    element_bytes: int = 4
    sum_bytes: int = 4
    dot: str = ""
    dot_group: int = 1
    dot_lanes: int = 1
    dot_pixels: int = 1

    @property
    def steps(self) -> int:
        """Steps of the innermost reduction loop."""
        return math.ceil(self.reduction / self.dot_group)

    @property
    def span(self) -> int:
        """Output channels that tiles divide: those of a group, padded to whole lanes."""
        return math.ceil(self.group / self.dot_lanes) * self.dot_lanes

    @property
    def products(self) -> int:
        """Multiply-adds of the whole kernel."""
        return self.height * self.width * self.channels * self.kernel**2 * self.reduction

    def positions(self, rows: int, columns: int) -> int:
        """Steps in which a tile's pixels are multiplied; an odd one at the end of a row takes a whole step."""
        return rows * math.ceil(columns / self.dot_pixels)

    @property
    def narrows(self) -> bool:
        """Whether a schedule may keep the sums in the type of the elements: float32 sums of products of halves."""
        sizes = (self.element_bytes, self.sum_bytes)
        return self.kind in ("conv", "depthwise", "matmul") and sizes == (2, 4) and not self.dot

    @cached_property
    def anchor(self) -> KernelShape:
        """The shape without its epilogue, equal for kernels that differ only in that."""
        return replace(self, extra=0)


@dataclass(frozen=True)
class Knobs:
    """One way to schedule a kernel.

    Attributes:
        rows, columns, channels: output tile kept in registers.
        lanes: vector width in elements.
        order: outer loops, outermost first: c (channels), y and x.
        unroll: unroll factor of the inner reduction loop.
        padding: where padded input is computed: ``inline`` (never stored), ``border`` (never stored; loops over tiles
            are cut so that only those at the image's border test for it), ``whole`` (once, up front), or inside the
            first (``outer``) or second (``middle``) outer loop.
        parallel: number of outer loops, outermost first, fused into one parallel loop; 0 for a serial kernel.
        sum_bytes: of an accumulator where the schedule narrows it; 0 where it stays as the kernel has it.
        chunk: products that a narrowed accumulator adds up before it is added to one as the kernel has it; 0 for all.
        staged: input channels of a pixel that one load brings into a register, from which multiply-adds take them by
            lane; 0 where each channel is read by itself. Of a depthwise kernel: those that one load brings of a tile's
            input, half a register; 0 where multiply-adds' operands are loaded whole.
    """

    rows: int
    columns: int
    channels: int
    lanes: int
    order: str = "cyx"
    unroll: int = 1
    padding: str = "inline"
    parallel: int = 0
    sum_bytes: int = 0
    chunk: int = 0
    staged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log, which names the sums only where they are narrowed, and staging where it happens."""
        values = asdict(self)
        hidden = (() if self.sum_bytes else ("sum_bytes", "chunk")) + (() if self.staged else ("staged",))
        return {name: value for name, value in values.items() if name not in hidden}

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Hashable identity, cheaper to compare than the dataclass."""
        tile = (self.rows, self.columns, self.channels, self.lanes)
        return (*tile, self.order, self.unroll, self.padding, self.parallel, self.sum_bytes, self.chunk, self.staged)


def divisors(number: int, largest: int | None = None) -> list[int]:
    """The divisors of a number up to ``largest``, ascending."""
    return [d for d in range(1, min(number, largest or number) + 1) if number % d == 0]


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
    return [way for knobs in serial for way in (knobs, *_parallel_ways(shape, knobs, registers))]


def _tiled(shape: KernelShape, registers: Registers) -> list[Knobs]:
    serial = [knobs for knobs in _tiles(shape, registers) if _worthwhile(shape, knobs, registers)]
    return serial or list(_tiles(shape, registers))


def _chunks(shape: KernelShape) -> list[int]:
    """Lengths of narrowed sums: short ones as a whole, and of long ones chunks whose rounding does not add up."""
    window = shape.kernel**2
    if window * shape.reduction <= _SHORT_SUM:
        return [0]
    fitting = [chunk for chunk in _CHUNKS if shape.reduction % chunk == 0 and window * chunk <= 2 * _SHORT_SUM]
    return [chunk for chunk in fitting if chunk < shape.reduction][:2] or [0]


def summed(shape: KernelShape, knobs: Knobs) -> KernelShape:
    """The shape with the accumulators that the knobs choose."""
    return replace(shape, sum_bytes=knobs.sum_bytes) if knobs.sum_bytes else shape


def _parallel_ways(shape: KernelShape, knobs: Knobs, registers: Registers) -> Iterator[Knobs]:
    """The same tile with parallel outer loops; each added loop must balance the work better."""
    best = 1.0 / registers.threads  # evenness of a loop that one thread runs
    for count in range(1, len(_parallel_extents(shape, knobs)) + 1):
        way = replace(knobs, parallel=count)
        if (even := evenness(shape, way, registers)) > best + 1e-9:
            best = even
            yield way


def _parallel_extents(shape: KernelShape, knobs: Knobs) -> list[int]:
    """Extents of the outer loops that can be fused into one parallel loop, outermost first.

    Loops fuse only if nothing is computed between them, such as input padded inside the first.
    """
    if shape.kind == "move":
        return [shape.height]
    extents = {
        "c": math.ceil(shape.channels / knobs.channels),
        "y": shape.height // knobs.rows,
        "x": shape.width // knobs.columns,
    }
    if shape.dot and shape.group < shape.channels:
        return []  # the loop over groups stands among them
    order = "c" if shape.kind in ("matmul", "pool") else knobs.order
    most = {"outer": 1, "middle": 2}.get(knobs.padding, len(order))
    return [extents[axis] for axis in order[:most]]


def chunks(shape: KernelShape, knobs: Knobs) -> int:
    """Iterations of the parallel loop; 1 for a serial kernel."""
    return math.prod(_parallel_extents(shape, knobs)[: knobs.parallel])


def evenness(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Share of the threads' time in use: 1 where the parallel loop's iterations divide evenly among the threads."""
    pieces = chunks(shape, knobs)
    return pieces / (math.ceil(pieces / registers.threads) * registers.threads)


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


def _tiles(shape: KernelShape, registers: Registers) -> Iterator[Knobs]:
    spans = shape.channels if shape.kind in ("depthwise", "pool") else shape.span
    orders = ORDERS if shape.height * shape.width > 1 else ORDERS[:1]
    for lanes in [shape.dot_lanes] if shape.dot else _widths(shape, spans, registers):
        channels = [tile for tile in divisors(spans) if tile % lanes == 0 and tile // lanes <= registers.count]
        rows, columns = divisors(shape.height, _MAX_ROWS), divisors(shape.width, _MAX_COLUMNS)
        # Tiles end between pairs of pixels, or with the row.
        columns = [column for column in columns if column % shape.dot_pixels == 0 or column == shape.width] or columns
        for tile, row, column in product(channels, rows, columns):
            positions, wide = shape.positions(row, column), vectors(shape, tile, lanes, registers)
            free = registers.count - positions * wide
            fitting = [order for order in orders if operands(shape, positions, wide, registers, order) <= free]
            for order, unroll, padding in product(fitting, _unrolls(shape, registers), _paddings(shape, registers)):
                for staged in _stages(shape, unroll, padding, registers):
                    knobs = Knobs(row, column, tile, lanes, order, unroll, padding, staged=staged)
                    if shape.kind != "depthwise" or not staged or _holds_window(shape, knobs, wide, registers):
                        yield knobs


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


def operands(shape: KernelShape, positions: int, wide: int, registers: Registers, order: str) -> int:
    """Registers that a tile's multiply-adds need beside its sums, of ``positions`` times ``wide`` registers.

    Inputs that are read a vector of channels at a time stay while all their lanes are used; the weights of one channel
    are loaded at once. Weights of a depthwise kernel stay for all tiles of a channel, unless the next tile has others.
    A tile that has fewer registers spills, and one spill costs more than what a larger tile saves.
    """
    if registers.reads_operands:
        return 0
    if shape.kind == "depthwise":
        kept = 1 if order.endswith("c") else min(shape.kernel**2, MOST_TAPS)
        return wide * kept + _WINDOW * shape.stride**2
    if shape.kind == "conv" and not shape.dot:
        return positions + wide
    return min(positions, wide) + 1


def _holds_window(shape: KernelShape, knobs: Knobs, wide: int, registers: Registers) -> bool:
    """Whether the input that a row of a depthwise kernel's taps reads fits beside sums and weights.

    LLVM moves what is loaded in halves to the front of the tile.
    """
    pixels = knobs.rows * ((knobs.columns - 1) * shape.stride + shape.kernel)
    sums = knobs.rows * knobs.columns
    return knobs.lanes > knobs.staged and wide * (sums + pixels + min(shape.kernel**2, MOST_TAPS)) <= registers.count


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


def vectors(shape: KernelShape, channels: int, lanes: int, registers: Registers) -> int:
    """Registers used by the sums of one position of a tile."""
    return (channels // lanes) * max(1, math.ceil(lanes / registers.lanes(shape.sum_bytes)))


def accumulators(shape: KernelShape, knobs: Knobs, registers: Registers) -> int:
    """Registers used by a tile's sums."""
    shape = summed(shape, knobs)
    return shape.positions(knobs.rows, knobs.columns) * vectors(shape, knobs.channels, knobs.lanes, registers)


def _worthwhile(shape: KernelShape, knobs: Knobs, registers: Registers) -> bool:
    """Whether a tile hides multiply-add latency; tiles of kernels too small for that need only match the kernel."""
    most = shape.height * shape.width * math.ceil(shape.channels / registers.lanes(shape.sum_bytes))
    return accumulators(shape, knobs, registers) >= min(4, most)
