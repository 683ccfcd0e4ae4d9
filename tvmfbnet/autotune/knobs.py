"""The knobs of a hand-written CPU schedule: tile sizes, vector width, loop order, unrolling, padding, parallel loops.

Plain data, no TVM: :mod:`tvmfbnet.autotune.templates` applies knobs to a kernel, :mod:`tvmfbnet.autotune.cpu_space`
lists those of a kernel, and :mod:`tvmfbnet.autotune.cost_model` learns which are fast.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from tvmfbnet.autotune.kernel_shape import KernelShape

# The last one is for depthwise kernels of CPUs that execute in order.
ORDERS = ("cyx", "yxc", "ycx", "cxy")


@dataclass(frozen=True)
class Knobs:
    """One way to schedule a kernel.

    Attributes:
        rows, columns, channels: output tile kept in registers. Columns that do not divide those of the image are pixels
            of the image as one row, and the last tile ends with it; so it does where channels do not divide those of
            the kernel.
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


def summed(shape: KernelShape, knobs: Knobs) -> KernelShape:
    """The shape with the accumulators that the knobs choose."""
    return replace(shape, sum_bytes=knobs.sum_bytes) if knobs.sum_bytes else shape


def divisors(number: int, largest: int | None = None) -> list[int]:
    """The divisors of a number up to ``largest``, ascending."""
    return [d for d in range(1, min(number, largest or number) + 1) if number % d == 0]
