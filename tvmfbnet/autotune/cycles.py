"""What a tile costs an x86 core before anything was timed: issue slots, latency, spilled sums, and far operands.

Sizes are those of common cores. Only the order of a kernel's schedules matters: trials correct the rest. Plain data, no
TVM.
"""

from __future__ import annotations

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import Registers, vectors

# Multiply-adds, and loads, that issue in a cycle; cycles until a sum can be added to again.
_ISSUED, _LATENCY = 2.0, 4.0
# Registers that weights and inputs need beside a tile's sums; of pixels with one vector each, LLVM loads the inputs of
# several steps at once, and half of the registers are left. Cycles of a step that a sum without a register costs.
_SPARE, _SPILL, _NARROW_SPILL = 4, 3.0, 2.0
# As unrolled by a schedule, such tiles need more of them.
_UNROLLED, _ROOM, _CROWDED = 4, 4, 0.3
# Depthwise: cycles of a tap that a spilled sum costs, and the share that each further row of a tile adds.
_TAP_SPILL, _ROW = 0.5, 0.08
# Cycles around a tile for each of its sums: zeroing, addresses, storing; and those of each step's loop.
_AROUND, _STEP = 4.0, 0.5
# Cycles a byte of what the first and the second cache do not hold; bytes that they hold beside all else.
_SECOND, _THIRD = 0.02, 0.06
_FIRST_BYTES, _SECOND_BYTES = 24e3, 400e3
# Cycles of a sum to test for the border of an image, and to copy a vector of it where padding is stored.
_TEST, _COPY = 1.0, 10.0


def cycles_per_product(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Estimated cycles per multiply-add of a convolution or classifier in float32, on one core."""
    wide = vectors(shape, knobs.channels, knobs.lanes, registers)
    pixels = shape.positions(knobs.rows, knobs.columns)
    tile = _depthwise_tile if shape.kind == "depthwise" else _tile
    return tile(shape, knobs, registers, pixels, wide) / (pixels * knobs.channels * shape.kernel**2 * shape.reduction)


def _depthwise_tile(shape: KernelShape, knobs: Knobs, registers: Registers, pixels: int, wide: int) -> float:
    sums, window = pixels * wide, shape.kernel**2
    spilled = max(0, sums - registers.count // 2 + 1)
    # Each product reads its input, and a tap's weights are loaded once for all pixels.
    cycles = (sums + wide) * window / _ISSUED + _TAP_SPILL * spilled * window + _AROUND * (sums + 2)
    cycles *= 1 + _ROW * (knobs.rows - 1)
    if not shape.padded:
        return cycles
    if knobs.padding in ("inline", "border"):  # whole rows are tested once
        return cycles + _TEST * sums * (knobs.columns < shape.width)
    return cycles + _COPY * sums * shape.stride**2


def _tile(shape: KernelShape, knobs: Knobs, registers: Registers, pixels: int, wide: int) -> float:
    sums, steps = pixels * wide, shape.kernel**2 * shape.reduction
    if wide == 1:
        spilled = _NARROW_SPILL * max(0, sums - registers.count // 2 + 1)
        spilled += _CROWDED * max(0, sums - _ROOM) if knobs.unroll >= _UNROLLED else 0.0
    else:
        spilled = _SPILL * max(0, sums - registers.count + _SPARE)
    step = max(sums / _ISSUED, (pixels + wide) / _ISSUED, _LATENCY) + spilled + _STEP / knobs.unroll
    return steps * step + _AROUND * (sums + 2) * (1 + shape.extra / 2) + _far_operands(shape, knobs, pixels, steps)


def _far_operands(shape: KernelShape, knobs: Knobs, pixels: int, steps: int) -> float:
    """Cycles that a tile's operands take from other caches than the first, by the order of the loops over tiles."""
    size, area = shape.element_bytes, shape.stride**2 * shape.reduction * shape.element_bytes
    weights, inputs = steps * knobs.channels * size, pixels * area
    all_weights, image = steps * shape.channels * size, shape.height * shape.width * area
    if knobs.order == "yxc":  # a tile's input stays, and all weights pass by
        return _transfer(weights, all_weights)
    if knobs.order == "cyx":  # a tile's weights stay, and the whole image passes by
        return _transfer(inputs, image) + _transfer(weights, weights)
    rows = _transfer(inputs, shape.width * knobs.rows * area) + _transfer(weights, weights)
    return rows + _transfer(weights * knobs.columns / shape.width, all_weights)


def _transfer(size: float, among: float) -> float:
    """Cycles for that many bytes of an array that is read over and over."""
    return 0.0 if among < _FIRST_BYTES else size * (_SECOND if among < _SECOND_BYTES else _THIRD)
