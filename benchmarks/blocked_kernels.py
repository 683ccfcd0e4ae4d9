"""Convolutions with activations in blocked NCHWc, and their schedules: what `blocked_layout.py` sets against ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs


@dataclass(frozen=True)
class Case:
    """A convolution of `fbnet`: output size, channels, window; depthwise or over all channels."""

    name: str
    size: int
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1

    @property
    def depthwise(self) -> bool:
        return self.kernel > 1

    @property
    def blocks(self) -> list[int]:
        """Channels of a block that divide its channels."""
        return [block for block in (16, 8) if self.inputs % block == 0 and self.outputs % block == 0]

    @property
    def source(self) -> tuple[int, int, int]:
        return (self.size * self.stride, self.size * self.stride, self.inputs)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input (height, width, channels), weights (kernel, kernel, in a group, out) and bias (out,)."""
    rng = np.random.default_rng(0)
    weights = (case.kernel, case.kernel, 1 if case.depthwise else case.inputs, case.outputs)
    return tuple(rng.standard_normal(shape).astype("float32") for shape in (case.source, weights, (case.outputs,)))


def blocked(case: Case, block: int) -> tvm.IRModule:
    """The same operation on (channel blocks, height, width, channels of a block), weights OIHWio or OHWo."""
    k, margin = case.kernel, case.kernel // 2
    height, width, inputs = case.source
    out_blocks, in_blocks = case.outputs // block, 1 if case.depthwise else inputs // block
    source = te.placeholder((inputs // block, height, width, block), name="source")
    taken = (out_blocks, k, k, block) if case.depthwise else (out_blocks, in_blocks, k, k, block, block)
    weights, bias = te.placeholder(taken, name="weights"), te.placeholder((out_blocks, block), name="bias")

    def pad(c: Any, y: Any, x: Any, b: Any) -> Any:
        inside = tirx.all(y >= margin, y < height + margin, x >= margin, x < width + margin)
        return tirx.if_then_else(inside, source[c, y - margin, x - margin, b], tirx.const(0, "float32"))

    padded = te.compute((inputs // block, height + 2 * margin, width + 2 * margin, block), pad, name="pad")
    rows, columns = te.reduce_axis((0, k), name="ky"), te.reduce_axis((0, k), name="kx")
    outer, inner = te.reduce_axis((0, in_blocks), name="ko"), te.reduce_axis((0, block), name="ki")

    def total(c: Any, y: Any, x: Any, b: Any) -> Any:
        at = (y * case.stride + rows, x * case.stride + columns)
        if case.depthwise:
            return te.sum(padded[c, *at, b] * weights[c, rows, columns, b], axis=[rows, columns])
        product = padded[outer, *at, inner] * weights[c, outer, rows, columns, inner, b]
        return te.sum(product, axis=[outer, rows, columns, inner])

    shape = (out_blocks, case.size, case.size, block)
    conv = te.compute(shape, total, name="conv")
    zero = tirx.const(0, "float32")
    out = te.compute(shape, lambda c, y, x, b: tirx.max(conv[c, y, x, b] + bias[c, b], zero), name="out")
    function = te.create_prim_func([source, weights, bias, out]).with_attr("layout_free_buffers", [1])
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def apply_blocked(mod: tvm.IRModule, shape: KernelShape, knobs: Knobs) -> Schedule:
    """The pattern of :func:`tvmfbnet.autotune.templates.apply_knobs` for blocked activations.

    The tile is ``rows`` x ``columns`` pixels x ``channels`` / block vectors; its sums stay in registers.
    """
    schedule = Schedule(mod)
    pad, total, last = (schedule.get_sblock(name, "main") for name in ("pad", "conv", "out"))
    loops = schedule.get_loops(last)
    split = {
        axis: schedule.split(loop, [None, factor])
        for axis, loop, factor in zip(
            "cyx", loops, (knobs.channels // knobs.lanes, knobs.rows, knobs.columns), strict=False
        )
    }
    outer, inner = [split[axis][0] for axis in knobs.order], [split[axis][1] for axis in "yxc"]
    schedule.reorder(*outer, *inner, loops[3])
    for loop in inner:
        schedule.unroll(loop)
    schedule.vectorize(loops[3])
    schedule.set_scope(total, 0, "local")
    schedule.compute_at(total, outer[-1], preserve_unit_loops=True)
    c, y, x, lanes, *reduced = schedule.get_loops(total)[3:]
    if shape.kind == "depthwise":
        schedule.reorder(*reduced, y, x, c, lanes)
        unrolled = reduced
    else:
        deep, steps = schedule.split(reduced[-1], [None, knobs.unroll])
        schedule.reorder(*reduced[:-1], deep, steps, y, x, c, lanes)
        unrolled = [*reduced[1:-1], steps]
    for loop in (*unrolled, y, x, c):
        schedule.unroll(loop)
    schedule.vectorize(lanes)
    if knobs.padding == "inline":
        schedule.compute_inline(pad)
    else:
        if knobs.padding != "whole":
            schedule.compute_at(pad, outer[0] if knobs.padding == "outer" else outer[1], preserve_unit_loops=True)
        schedule.vectorize(schedule.get_loops(pad)[-1])
    ms.postproc.RewriteLayout().apply(schedule)
    init = schedule.decompose_reduction(total, schedule.get_loops(total)[3])
    for loop in schedule.get_loops(init)[3:-1]:
        schedule.unroll(loop)
    return schedule


def as_blocked(array: np.ndarray, block: int) -> np.ndarray:
    """(height, width, channels) as (channel blocks, height, width, channels of a block)."""
    height, width, channels = array.shape
    blocks = array.reshape(height, width, channels // block, block)
    return np.ascontiguousarray(blocks.transpose(2, 0, 1, 3))


def blocked_weights(case: Case, block: int) -> np.ndarray:
    k, weights = case.kernel, arrays(case)[1]
    if case.depthwise:
        return np.ascontiguousarray(weights.reshape(k, k, -1, block).transpose(2, 0, 1, 3))
    split = weights.reshape(k, k, case.inputs // block, block, case.outputs // block, block)
    return np.ascontiguousarray(split.transpose(4, 2, 0, 1, 3, 5))


def from_blocked(array: np.ndarray) -> np.ndarray:
    blocks, height, width, block = array.shape
    return array.transpose(1, 2, 0, 3).reshape(height, width, blocks * block)
