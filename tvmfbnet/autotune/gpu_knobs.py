"""The knobs of a hand-written GPU schedule, and what they make one thread do.

Plain data, no TVM: :mod:`tvmfbnet.autotune.gpu_templates` applies them to a kernel, :mod:`tvmfbnet.autotune.gpu_space`
lists those of a kernel.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tvmfbnet.autotune.kernel_shape import KernelShape

# Of the schedules that the knobs mean. Trials of another version in a log are not learnt from and are tried again.
TEMPLATES_VERSION = 1
# The field of logged knobs that holds the version, and tells them from those of CPUs.
VERSION_FIELD = "gpu"
ACROSS = ("channels", "pixels")


@dataclass(frozen=True)
class GpuKnobs:
    """One way to schedule a kernel on a GPU: every thread computes one tile of the output in registers.

    Attributes:
        rows, columns, channels: a thread's tile.
        lanes: channels that one vector access reads or writes.
        pixels, vectors: threads of a work group along the tiles of the image, and along those of the channels.
        staged: input channels of a pixel that one vector access loads; a depthwise kernel loads ``lanes``.
        unroll: such loads per iteration of the loop over input channels; of a depthwise kernel, rows of its window.
        across: what neighbouring threads have: neighbouring ``channels`` of one pixel, or ``pixels``.
    """

    rows: int
    columns: int
    channels: int
    lanes: int
    pixels: int
    vectors: int
    staged: int = 1
    unroll: int = 1
    across: str = ACROSS[0]

    # Sums stay as the kernel has them: there is nothing whose rounding would need a check.
    sum_bytes = 0

    @property
    def threads(self) -> int:
        """Threads of a work group."""
        return self.pixels * self.vectors

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log, with the version of the schedules."""
        return {VERSION_FIELD: TEMPLATES_VERSION, **asdict(self)}

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Hashable identity."""
        tile = (self.rows, self.columns, self.channels, self.lanes)
        return ("gpu", *tile, self.pixels, self.vectors, self.staged, self.unroll, self.across)


def gpu_knobs_of(value: dict[str, Any]) -> GpuKnobs | None:
    """The knobs of a line of the log; None for those of another version."""
    fields = {name: field for name, field in value.items() if name != VERSION_FIELD}
    return GpuKnobs(**fields) if value[VERSION_FIELD] == TEMPLATES_VERSION else None


@dataclass(frozen=True)
class ThreadWork:
    """What one thread does.

    Attributes:
        products: multiply-adds.
        sums: accumulators that it keeps.
        buffered: elements of inputs and weights that it keeps during one step.
        input_loads: accesses that load inputs, each of ``input_lanes`` elements.
        input_lanes: elements of such an access.
        weight_loads: accesses that load weights.
        other_accesses: accesses to what the epilogue adds, and to the output.
        iterations: of its innermost loop that is not unrolled.
    """

    products: int
    sums: int
    buffered: int
    input_loads: int
    input_lanes: int
    weight_loads: int
    other_accesses: int
    iterations: int


def thread_work(shape: KernelShape, knobs: GpuKnobs) -> ThreadWork:
    """Counts the work of one thread, inputs once for each row of the window, which stays in registers."""
    positions, wide, window = knobs.rows * knobs.columns, knobs.channels // knobs.lanes, shape.kernel**2
    others = (shape.extra + 1) * positions * wide
    if shape.kind == "move":
        reads = max(1, shape.extra)
        return ThreadWork(knobs.lanes, knobs.lanes, reads * knobs.lanes, reads, knobs.lanes, 0, 1, 1)
    if shape.kind == "pool":
        loops = shape.kernel * math.ceil(shape.kernel / knobs.unroll)
        products = window * knobs.channels
        return ThreadWork(products, knobs.channels, knobs.channels, window * wide, knobs.lanes, 0, others, loops)
    row = (knobs.columns - 1) * shape.stride + shape.kernel
    inputs = ((knobs.rows - 1) * shape.stride + 1) * row
    if shape.kind == "depthwise":
        loads, deep, lanes = shape.kernel * inputs * wide, knobs.channels, knobs.lanes
        loops, weights = shape.kernel // knobs.unroll, window * wide
    else:
        steps = shape.kernel * shape.reduction // knobs.staged
        loads, deep, lanes = steps * inputs, knobs.staged, knobs.staged
        loops, weights = steps // knobs.unroll, window * shape.reduction * wide
    return ThreadWork(
        products=positions * knobs.channels * window * shape.reduction,
        sums=positions * knobs.channels,
        buffered=inputs * deep + knobs.channels,
        input_loads=loads,
        input_lanes=lanes,
        weight_loads=weights,
        other_accesses=others,
        iterations=loops,
    )
