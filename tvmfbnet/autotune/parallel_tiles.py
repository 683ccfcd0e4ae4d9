"""Outer loops over a kernel's tiles that threads share, and how evenly they do. Plain data, no TVM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import Registers


def parallel_ways(shape: KernelShape, knobs: Knobs, registers: Registers) -> Iterator[Knobs]:
    """The same tile with parallel outer loops; each added loop must balance the work better."""
    best = 1.0 / registers.threads  # evenness of a loop that one thread runs
    for count in range(1, len(_extents(shape, knobs)) + 1):
        way = replace(knobs, parallel=count)
        if (even := evenness(shape, way, registers)) > best + 1e-9:
            best = even
            yield way


def chunks(shape: KernelShape, knobs: Knobs) -> int:
    """Iterations of the parallel loop; 1 for a serial kernel."""
    return math.prod(_extents(shape, knobs)[: knobs.parallel])


def evenness(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Share of the threads' time in use: 1 where the parallel loop's iterations divide evenly among the threads."""
    pieces = chunks(shape, knobs)
    return pieces / (math.ceil(pieces / registers.threads) * registers.threads)


def _extents(shape: KernelShape, knobs: Knobs) -> list[int]:
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
    if shape.runs_on(knobs.columns):
        return [extents["c"]] if knobs.order[0] == "c" else []  # the loop over tiles of pixels is cut at the last one
    order = "c" if shape.kind in ("matmul", "pool") else knobs.order
    most = {"outer": 1, "middle": 2}.get(knobs.padding, len(order))
    return [extents[axis] for axis in order[:most]]
