"""The sums of integer kernels: convolutions and matrix products in each way in which CPUs multiply.

With a dot product where there is one, by pairs of pixels (:mod:`.paired_products`) or by packed taps
(:mod:`.tap_products`) where that takes fewer instructions, else element by element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx

from tvmfbnet.compiler.dot_products import DotProduct
from tvmfbnet.compiler.integer_kernels import DOT, WINDOW, ConvWindow, Draft, output_size, zero_code
from tvmfbnet.compiler.paired_products import paired_sums
from tvmfbnet.compiler.tap_products import tap_convolution, tap_lanes

_Array = npt.NDArray[Any]


def convolution(draft: Draft, source: te.Tensor, weights: _Array, zero: int, window: ConvWindow) -> te.Tensor:
    """The integer sums of a convolution: (1, H, W, C), or (1, H, W, groups, C) with most dot products; C may be padded.

    Args:
        draft: of the kernel.
        source: codes (1, H, W, cin).
        weights: int8 (cout, cin of a group, k, k).
        zero: code of 0 in the source, which the padding holds.
        window: of the convolution.
    """
    outputs, reduction = weights.shape[:2]
    per_group = outputs // window.groups
    # Groups are not padded: a tile of one group would end inside the padding.
    lanes = draft.dot.lanes(per_group) if window.groups == 1 else draft.dot.whole_lanes(per_group)
    draft.names.append("conv2d")
    if packed := tap_lanes(draft, weights, window):
        return tap_convolution(draft, source, weights, zero, window, packed)
    if draft.dot.group == 1 or not lanes or (reduction == 1 and per_group == 1):
        return widening_convolution(draft, source, weights, zero, window)
    return _dot_convolution(draft, source, weights, zero, window, lanes)


def _padded(draft: Draft, source: te.Tensor, zero: int, window: ConvWindow, per_group: int, dtype: str) -> te.Tensor:
    """The source with borders and with ``per_group`` channels in each group, in another type."""
    _, height, width, channels = (int(size) for size in source.shape)
    margin, code = window.padding, zero_code(draft, zero, window, dtype)
    real = channels // window.groups

    def value(b: Any, y: Any, x: Any, c: Any) -> Any:
        where = c if per_group == real else c // per_group * real + c % per_group
        inside = [y >= margin, y < height + margin, x >= margin, x < width + margin] if margin else []
        inside += [c % per_group < real] if per_group != real else []
        element = source[b, y - margin, x - margin, where].astype(dtype)
        return tirx.if_then_else(tirx.all(*inside), element, code) if inside else element

    shape = (1, height + 2 * margin, width + 2 * margin, per_group * window.groups)
    return te.compute(shape, value, name="padded")


def widening_convolution(draft: Draft, source: te.Tensor, weights: _Array, zero: int, window: ConvWindow) -> te.Tensor:
    """Sums element by element, in the form that schedules of float32 convolutions know."""
    outputs, reduction, kernel, _ = weights.shape
    per_group = outputs // window.groups
    size = output_size(source, window)
    # Unsigned bytes are multiplied as 16-bit words by themselves.
    padded = _padded(draft, source, zero, window, reduction, "uint8" if draft.dot.codes == "uint8" else "int16")
    packed = draft.constant(weights.transpose(2, 3, 1, 0).astype("int16"), "weights", free=True)
    ky, kx = (te.reduce_axis((0, kernel), name=name) for name in ("ky", "kx"))
    k = te.reduce_axis((0, reduction), name="k")

    def total(b: Any, y: Any, x: Any, c: Any) -> Any:
        channel = k if window.groups == 1 else (c // per_group * reduction + k if per_group > 1 else c + k)
        element = padded[b, y * window.stride + ky, x * window.stride + kx, channel]
        return te.sum(element.astype("int32") * packed[ky, kx, k, c].astype("int32"), axis=[ky, kx, k])

    attrs = {WINDOW: f"{kernel} {window.stride} {reduction} {int(window.padding > 0)}"}
    return te.compute((1, *size, outputs), total, name="conv2d_nhwc", attrs=attrs)


def _dot_convolution(
    draft: Draft, source: te.Tensor, weights: _Array, zero: int, window: ConvWindow, lanes: int
) -> te.Tensor:
    outputs, reduction, kernel, _ = weights.shape
    groups, per_group, size = window.groups, outputs // window.groups, output_size(source, window)
    dot = draft.dot
    if kernel == 1 and not window.padding:
        pointwise = dot.for_pointwise(size[1], reduction, per_group)
        if pointwise.pixels > 1:
            return _paired_convolution(draft, source, weights, window, pointwise)
    depth = _rounded_up(reduction, dot.group)
    if window.padding or depth != reduction or dot.operand != dot.codes or str(source.dtype) != dot.codes:
        source = _padded(draft, source, zero, window, depth, dot.operand)
    wide = _rounded_up(per_group, lanes)
    packed = draft.constant(_packed(weights, groups, depth, wide, dot), "weights", free=True)
    ky, kx = (te.reduce_axis((0, kernel), name=name) for name in ("ky", "kx"))
    k, i = te.reduce_axis((0, depth // dot.group), name="k"), te.reduce_axis((0, dot.group), name="i")

    def total(b: Any, y: Any, x: Any, g: Any, c: Any) -> Any:
        channel = g * depth + k * dot.group + i if groups > 1 else k * dot.group + i
        element = source[b, y * window.stride + ky, x * window.stride + kx, channel]
        return te.sum(element.astype("int32") * packed[g, ky, kx, k, c, i].astype("int32"), axis=[ky, kx, k, i])

    attrs = {DOT: f"{dot.name} {lanes}", WINDOW: f"{kernel} {window.stride} {reduction} {int(window.padding > 0)}"}
    return te.compute((1, *size, groups, wide), total, name="conv2d_dot", attrs=attrs)


def _paired_convolution(
    draft: Draft, source: te.Tensor, weights: _Array, window: ConvWindow, dot: DotProduct
) -> te.Tensor:
    """A pointwise convolution by an instruction for pairs of pixels."""
    outputs, reduction = weights.shape[:2]
    groups, per_group, width = window.groups, outputs // window.groups, output_size(source, window)[1]
    depth, lanes = _rounded_up(reduction, dot.group), dot.lanes(per_group)
    in_place = isinstance(source.op, te.PlaceholderOp) and str(source.dtype) == dot.operand
    copied = not in_place or depth != reduction or width % dot.pixels > 0 or window.stride > 1
    if depth != reduction or str(source.dtype) != dot.operand:
        source = _padded(draft, source, 0, window, depth, dot.operand)
    wide = _rounded_up(per_group, lanes)
    tiles = _packed(weights, groups, depth, wide, dot).reshape(groups, depth // dot.group, wide // lanes, lanes, -1)
    packed = draft.constant(tiles, "weights", free=True)
    attrs = {DOT: f"{dot.name} {lanes}", WINDOW: f"1 {window.stride} {reduction} {int(copied)}"}
    return paired_sums(source, packed, dot, window.stride, width, attrs)


def _packed(weights: _Array, groups: int, depth: int, wide: int, dot: DotProduct) -> _Array:
    """(cout, cin, k, k) as (groups, k, k, cin / group, cout of a group, group), padded with zeros."""
    outputs, reduction, kernel, _ = weights.shape
    per_group = outputs // groups
    padded = np.zeros((groups, wide, depth, kernel, kernel), dot.weights)
    padded[:, :per_group, :reduction] = weights.reshape(groups, per_group, reduction, kernel, kernel)
    split = padded.reshape(groups, wide, depth // dot.group, dot.group, kernel, kernel)
    return np.ascontiguousarray(split.transpose(0, 4, 5, 2, 1, 3))


def product(draft: Draft, source: te.Tensor, weights: _Array) -> te.Tensor:
    """The integer sums of a matrix product: codes (1, K) times int8 (N, K) to (1, N); N may be padded."""
    outputs, reduction = weights.shape
    dot = draft.dot
    draft.names.append("matmul")
    if dot.group == 1:
        packed = draft.constant(weights.T.astype("int16"), "weights", free=True)
        k = te.reduce_axis((0, reduction), name="k")
        return te.compute(
            (1, outputs),
            lambda b, n: te.sum(source[b, k].astype("int32") * packed[k, n].astype("int32"), axis=[k]),
            name="matmul",
        )
    depth, wide = _rounded_up(reduction, dot.group), _rounded_up(outputs, dot.lanes(outputs))
    if depth != reduction or dot.operand != dot.codes:
        inner, none = source, tirx.const(0, dot.operand)
        source = te.compute(
            (1, depth),
            lambda b, k: tirx.if_then_else(k < reduction, inner[b, k].astype(dot.operand), none),
            name="padded",
        )
    values = _packed(weights[:, :, None, None], 1, depth, wide, dot)[0, 0, 0]
    packed = draft.constant(values, "weights", free=True)
    k, i = te.reduce_axis((0, depth // dot.group), name="k"), te.reduce_axis((0, dot.group), name="i")

    def total(b: Any, n: Any) -> Any:
        return te.sum(source[b, k * dot.group + i].astype("int32") * packed[k, n, i].astype("int32"), axis=[k, i])

    attrs = {DOT: f"{dot.name} {dot.lanes(outputs)}", WINDOW: f"1 1 {reduction} 0"}
    return te.compute((1, wide), total, name="matmul_dot", attrs=attrs)


def _rounded_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple
