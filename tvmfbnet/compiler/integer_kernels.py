"""Integer kernels as tensor expressions: sums of integer products, and the elementwise operations that follow.

A kernel grows operation by operation until its result is needed in memory (:class:`Draft`). Scales, zero points and
biases are arguments and not part of the code, so that equal operations of different layers, and of a part with random
weights and the calibrated net, are one kernel with one tuned schedule.

A tensor is either in memory as codes, or inside a draft as floats: codes before rounding, clipped to their range
(:func:`requantise`), or reals. Rounding is to the nearest even code, as ONNX says. Where instructions clip while they
narrow (:attr:`.DotProduct.saturates`), codes before rounding are clipped from above only, and the rest is left to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx
from tvm.tirx import PrimFunc

from tvmfbnet.compiler.dot_products import DotProduct

# Annotations of the block with the sum, for schedules: instruction and lanes; kernel size, stride, input channels of a
# group, and whether there is padding, or the input has to be copied for another reason.
DOT, WINDOW = "tvmfbnet.dot", "tvmfbnet.window"
# Added to a small float, it moves the rounded integer to the lowest bits.
_ROUNDER = 1.5 * 2**23
_MOST = 255  # of unsigned codes
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quantisation:
    """What codes mean: real = scale * (code - zero), code in ``low`` to ``high``; as the target stores them."""

    scale: float
    zero: int
    low: int
    high: int


@dataclass(frozen=True)
class ConvWindow:
    """How a convolution moves over its input; ``groups`` divide its channels."""

    kernel: int
    stride: int
    padding: int
    groups: int = 1


@dataclass
class Draft:
    """A kernel that is being built: its arguments so far and the tensor that its next operation takes."""

    dot: DotProduct
    names: list[str] = field(default_factory=list)
    placeholders: list[te.Tensor] = field(default_factory=list)
    arguments: list[relax.Expr] = field(default_factory=list)
    free: list[int] = field(default_factory=list)

    def argument(self, value: relax.Expr) -> te.Tensor:
        """A tensor in memory as the next argument."""
        shape = [int(size) for size in value.ty.shape.values]
        return self._add(value, shape, str(value.ty.dtype), f"source{len(self.arguments)}")

    def constant(self, values: _Array, name: str, free: bool = False) -> te.Tensor:
        """A constant as the next argument; ``free``: a schedule may change its layout."""
        if free:
            self.free.append(len(self.arguments))
        constant = relax.const(np.ascontiguousarray(values), str(values.dtype))
        return self._add(constant, list(values.shape), str(values.dtype), f"{name}{len(self.arguments)}")

    def _add(self, value: relax.Expr, shape: list[int], dtype: str, name: str) -> te.Tensor:
        self.placeholders.append(te.placeholder(shape, dtype, name))
        self.arguments.append(value)
        return self.placeholders[-1]

    def finish(self, result: te.Tensor) -> PrimFunc:
        """The kernel's function; the last argument is its output."""
        function = te.create_prim_func([*self.placeholders, result])
        return function.with_attr("layout_free_buffers", self.free) if self.free else function


def store(tensor: te.Tensor, dot: DotProduct) -> te.Tensor:
    """Clipped codes before rounding as codes in memory."""

    def code(*at: Any) -> Any:
        if dot.saturates:
            # LLVM makes this vcvtps2dq, whose result for what is too small is the smallest integer, and saturating
            # packs, which clip.
            rounded = tirx.call_llvm_pure_intrin("int32", "llvm.lrint", tensor[at])
            return tirx.max(tirx.min(rounded, _MOST), 0).astype(dot.codes)
        # One addition rounds, and leaves the code in the lowest byte.
        return tirx.reinterpret("int32", tensor[at] + tirx.const(_ROUNDER, "float32")).astype(dot.codes)

    return te.compute(tensor.shape, code, name="codes")


def elementwise(tensor: te.Tensor, function: Callable[[Any], Any], name: str) -> te.Tensor:
    """A function of each element."""
    return te.compute(tensor.shape, lambda *at: function(tensor[at]), name=name)


def clipped(value: Any, quantisation: Quantisation, dot: DotProduct) -> Any:
    """A real code within its range.

    Where storing it clips, only from above: floats that are too large for an integer have to stay large.
    """
    low, high = (tirx.const(float(bound), "float32") for bound in (quantisation.low, quantisation.high))
    below = tirx.min(value, high)
    return below if dot.saturates else tirx.max(below, low)


def requantise(draft: Draft, reals: te.Tensor, quantisation: Quantisation) -> te.Tensor:
    """Reals as clipped codes before rounding."""
    terms = draft.constant(np.array([1.0 / quantisation.scale, quantisation.zero], "float32"), "to_codes")
    return elementwise(reals, lambda real: clipped(real * terms[0] + terms[1], quantisation, draft.dot), "requantised")


def reals_of(draft: Draft, codes: te.Tensor, quantisation: Quantisation) -> te.Tensor:
    """Codes, in memory or before rounding, as reals."""
    terms = draft.constant(np.array([quantisation.scale, quantisation.zero], "float32"), "to_reals")
    in_memory = str(codes.dtype) != "float32"

    def real(code: Any) -> Any:
        if not in_memory and draft.dot.saturates:
            code = tirx.max(code, tirx.const(float(quantisation.low), "float32"))
        rounded = code.astype("int32").astype("float32") if in_memory else tirx.nearbyint(code)
        return (rounded - terms[1]) * terms[0]

    return elementwise(codes, real, "reals")


def scaled_sum(draft: Draft, total: te.Tensor, terms: SumTerms, quantisation: Quantisation, channels: int) -> te.Tensor:
    """Integer sums (..., groups, channels of a group) or (..., channels) as clipped codes (..., channels)."""
    bias, scale = draft.constant(terms.bias, "bias"), draft.constant(terms.scale, "scale")
    zero = draft.constant(np.array([quantisation.zero], "float32"), "zero")
    *outer, _ = total.shape
    per_group = channels // int(outer.pop()) if len(total.shape) == 5 else channels

    def code(*at: Any) -> Any:
        *place, channel = at
        where = (*place, channel // per_group, channel % per_group) if per_group < channels else at
        where = where if len(where) == len(total.shape) else (*place, 0, channel)
        value = (total[where] + bias[channel]).astype("float32") * scale[channel] + zero[0]
        return clipped(value, quantisation, draft.dot)

    return te.compute((*outer, channels), code, name="requantised")


@dataclass(frozen=True)
class SumTerms:
    """What turns integer sums into codes: int32 bias with the input's zero point, float32 scale; per channel."""

    bias: _Array
    scale: _Array


def zero_code(draft: Draft, zero: int, window: ConvWindow, dtype: str) -> Any:
    """The code of 0 as an expression; an argument where there is padding."""
    if not window.padding:
        return tirx.const(0, dtype)
    return draft.constant(np.array([zero], draft.dot.codes), "padding")[0].astype(dtype)


def output_size(source: te.Tensor, window: ConvWindow) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    sizes = [int(size) for size in source.shape[1:3]]
    height, width = ((size + 2 * window.padding - window.kernel) // window.stride + 1 for size in sizes)
    return height, width


def mean(draft: Draft, source: te.Tensor, quantisation: Quantisation) -> te.Tensor:
    """The mean over an image of codes (1, H, W, C) as reals (1, 1, 1, C)."""
    _, height, width, channels = (int(size) for size in source.shape)
    y, x = te.reduce_axis((0, height), name="y"), te.reduce_axis((0, width), name="x")
    total = te.compute(
        (1, 1, 1, channels), lambda b, _y, _x, c: te.sum(source[b, y, x, c].astype("int32"), axis=[y, x]), name="total"
    )
    values = np.array([quantisation.scale / (height * width), quantisation.zero * height * width], "float32")
    terms = draft.constant(values, "mean")
    draft.names.append("mean")
    return elementwise(total, lambda value: (value.astype("float32") - terms[1]) * terms[0], "reals")


def shuffled(draft: Draft, source: te.Tensor, groups: int) -> te.Tensor:
    """Codes with the channels of groups interleaved."""
    draft.names.append("shuffle")
    per_group = int(source.shape[-1]) // groups
    return te.compute(
        source.shape, lambda b, y, x, c: source[b, y, x, c % groups * per_group + c // groups], name="shuffled"
    )


def sums_of(
    weights: _Array, bias: _Array, weight_scales: _Array, source: Quantisation, result: Quantisation
) -> SumTerms:
    """Bias and scale of a convolution's or product's sums, with the zero point of the source folded into the bias.

    Args:
        weights: int8, output channels first.
        bias: int32 per channel, in steps of the source's scale times the weight's.
        weight_scales: per channel.
        source: of the input.
        result: of the output.
    """
    axes = tuple(range(1, weights.ndim))
    folded = bias.astype("int64") - source.zero * weights.astype("int64").sum(axis=axes)
    scale = weight_scales.astype("float64") * source.scale / result.scale
    return SumTerms(folded.astype("int32"), np.broadcast_to(scale, folded.shape).astype("float32"))


def shape_text(shape: Sequence[int]) -> str:
    """A shape for messages."""
    return "x".join(str(size) for size in shape)
