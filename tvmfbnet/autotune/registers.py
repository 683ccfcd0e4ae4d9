"""The vector registers of a CPU, and how many of them a tile takes: for its sums, its weights and its inputs.

Plain data, no TVM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs, summed

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


def vectors(shape: KernelShape, channels: int, lanes: int, registers: Registers) -> int:
    """Registers used by the sums of one position of a tile."""
    return (channels // lanes) * max(1, math.ceil(lanes / registers.lanes(shape.sum_bytes)))


def accumulators(shape: KernelShape, knobs: Knobs, registers: Registers) -> int:
    """Registers used by a tile's sums."""
    shape = summed(shape, knobs)
    return shape.positions(knobs.rows, knobs.columns) * vectors(shape, knobs.channels, knobs.lanes, registers)


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


def holds_window(shape: KernelShape, knobs: Knobs, wide: int, registers: Registers) -> bool:
    """Whether the input that a row of a depthwise kernel's taps reads fits beside sums and weights.

    LLVM moves what is loaded in halves to the front of the tile.
    """
    pixels = knobs.rows * ((knobs.columns - 1) * shape.stride + shape.kernel)
    sums = knobs.rows * knobs.columns
    return knobs.lanes > knobs.staged and wide * (sums + pixels + min(shape.kernel**2, MOST_TAPS)) <= registers.count
