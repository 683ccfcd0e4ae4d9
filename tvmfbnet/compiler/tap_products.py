"""Depthwise convolutions by dot products: taps that lie above each other share a lane.

A dot product adds up several products in each lane, and a depthwise convolution has but one product for a channel and
a tap. So a kernel first packs the elements of neighbouring rows of one column and channel into 32 bits. Each packed
column then serves all windows over it: one instruction a column multiplies up to four taps of as many channels as
there are lanes, where widening element by element takes one a tap.

With AVX2 (:attr:`.DotProduct.shares_rows`) windows at all heights share the same words, each of two rows. Those of
every other output row begin with a word's second row: their weights are moved by a row, with a zero before them.

Only x86 gains: on ARM widening a byte to 32 bits takes two instructions, and ``smlal`` multiplies eight 16-bit words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import te, tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from tvmfbnet.compiler.dot_products import DOT_PRODUCTS, PREFIX, DotProduct, register_dot_products
from tvmfbnet.compiler.integer_kernels import DOT, WINDOW, ConvWindow, Draft, output_size, zero_code
from tvmfbnet.compiler.intrinsics import cheap_stacks

_WORD = 32


def is_depthwise(weights: npt.NDArray[Any], window: ConvWindow) -> bool:
    """Whether a convolution has a filter per channel: ``weights`` are (cout, cin of a group, k, k)."""
    return window.groups > 1 and window.groups == weights.shape[0] and weights.shape[1] == 1


def _packs(dot: DotProduct) -> bool:
    return dot.group > 1 and dot.codes == "uint8"


def tap_lanes(draft: Draft, weights: npt.NDArray[Any], window: ConvWindow) -> int:
    """Lanes in which a depthwise convolution packs its taps; 0 where it cannot."""
    dot = draft.dot
    if not _packs(dot) or window.kernel == 1 or not is_depthwise(weights, window):
        return 0
    # With a stride too few windows share a packed column to pay for more than one pack of it.
    few = window.stride > 1 and window.kernel > dot.group and not dot.shares_rows
    return 0 if few else dot.whole_lanes(window.groups)


def tap_convolution(
    draft: Draft, source: te.Tensor, weights: npt.NDArray[Any], zero: int, window: ConvWindow, lanes: int
) -> te.Tensor:
    """The integer sums of a depthwise convolution, (1, H, W, C).

    Args:
        draft: of the kernel.
        source: codes (1, H, W, C).
        weights: int8 (C, 1, k, k).
        zero: code of 0 in the source, which the padding holds.
        window: of the convolution.
        lanes: of the instruction, from :func:`tap_lanes`.
    """
    dot, kernel, stride = draft.dot, window.kernel, window.stride
    height, width = output_size(source, window)
    starts = window_starts(dot, stride)
    packs = math.ceil((kernel + starts - 1) / dot.group)
    if dot.shares_rows:
        taps = _shared_taps(draft, source, zero, window, packs)
        shifted = np.stack([_packed_weights(weights, packs, dot, start) for start in range(starts)])
        packed = draft.constant(shifted, "weights", free=True)
    else:
        taps = _packed_taps(draft, source, zero, window, packs)
        packed = draft.constant(_packed_weights(weights, packs, dot), "weights", free=True)
    g, kx = te.reduce_axis((0, packs), name="g"), te.reduce_axis((0, kernel), name="kx")
    k, i = te.reduce_axis((0, 1), name="k"), te.reduce_axis((0, dot.group), name="i")

    def total(b: Any, y: Any, x: Any, c: Any) -> Any:
        column = x * stride + kx
        if dot.shares_rows:
            first, start = _first_word(dot, stride, y)
            word, weight = taps[b, first + g, column, c], packed[start, g, kx, k, c, i]
        else:
            word, weight = taps[b, g, y, column, c], packed[g, kx, k, c, i]
        return te.sum(_element(dot, word, i) * weight.astype("int32"), axis=[g, kx, k, i])

    attrs = {DOT: f"{dot.name} {lanes}", WINDOW: f"{kernel} {stride} 1 {int(window.padding > 0)}"}
    return te.compute((1, height, width, window.groups), total, name="conv2d_taps", attrs=attrs)


def window_starts(dot: DotProduct, stride: int) -> int:
    """With how many rows of a word windows begin, where they share words: neighbouring output rows, in turn."""
    return dot.group // math.gcd(dot.group, stride) if dot.shares_rows else 1


def _first_word(dot: DotProduct, stride: int, y: Any) -> tuple[Any, Any]:
    """The first shared word of the windows of an output row, and the row in it with which they begin."""
    if stride % dot.group == 0:
        return y * (stride // dot.group), 0
    return y * stride // dot.group, y * stride % dot.group


def _packed_taps(draft: Draft, source: te.Tensor, zero: int, window: ConvWindow, packs: int) -> te.Tensor:
    """(1, packs, output rows, padded columns, C) of int32: each holds one column's elements in a few rows."""
    dot, kernel, margin = draft.dot, window.kernel, window.padding
    _, height, width, channels = (int(size) for size in source.shape)
    code = zero_code(draft, zero, window, dot.codes)

    def taps(b: Any, g: Any, y: Any, x: Any, c: Any) -> Any:
        elements = []
        for row in range(min(dot.group, kernel)):
            at = y * window.stride + g * dot.group + row - margin
            inside = [at >= 0, at < height, x >= margin, x < width + margin] if margin else []
            if kernel > dot.group and kernel % dot.group:  # rows below the window are multiplied by 0
                inside.append(g * dot.group + row < kernel)
            element = source[b, at, x - margin, c]
            elements.append(tirx.if_then_else(tirx.all(*inside), element, code) if inside else element)
        return _word(dot, elements)

    rows, _ = output_size(source, window)
    return te.compute((1, packs, rows, width + 2 * margin, channels), taps, name="taps")


def _shared_taps(draft: Draft, source: te.Tensor, zero: int, window: ConvWindow, packs: int) -> te.Tensor:
    """(1, words, padded columns, C) of int32: each holds one column's elements in the next few padded rows."""
    dot, margin = draft.dot, window.padding
    _, height, width, channels = (int(size) for size in source.shape)
    code = zero_code(draft, zero, window, dot.codes)
    rows, _ = output_size(source, window)
    words = (rows - 1) * window.stride // dot.group + packs

    def taps(b: Any, r: Any, x: Any, c: Any) -> Any:
        elements = []
        for row in range(dot.group):
            at = r * dot.group + row - margin
            inside = [at >= 0, x >= margin, x < width + margin] if margin else []
            if margin or words * dot.group > height:  # rows below the last window are multiplied by 0
                inside.append(at < height)
            element = source[b, at, x - margin, c]
            elements.append(tirx.if_then_else(tirx.all(*inside), element, code) if inside else element)
        return _word(dot, elements)

    return te.compute((1, words, width + 2 * margin, channels), taps, name="taps")


def _word(dot: DotProduct, elements: list[Any]) -> Any:
    """Elements in one word, the first in its lowest bits."""
    bits, word = _WORD // dot.group, elements[0].astype("int32")
    for place, element in enumerate(elements[1:], 1):
        word = word | element.astype("int32") << (bits * place)
    return word


def _element(dot: DotProduct, word: Any, index: Any) -> Any:
    """One of the elements in a word."""
    bits = _WORD // dot.group
    return (word >> (index * bits)) & (2**bits - 1)


def _packed_weights(weights: npt.NDArray[Any], packs: int, dot: DotProduct, start: int = 0) -> npt.NDArray[Any]:
    """(C, 1, k, k) as (packs, k, 1, C, group): a pack's rows together, with zeros in ``start`` rows above and below."""
    channels, _, kernel, _ = weights.shape
    padded = np.zeros((channels, packs * dot.group, kernel), dot.weights)
    padded[:, start : start + kernel] = weights[:, 0]
    split = padded.reshape(channels, packs, dot.group, kernel)
    return np.ascontiguousarray(split.transpose(1, 3, 0, 2)[:, :, None])


def tap_intrinsic(dot: DotProduct, lanes: int) -> str:
    """The tensor intrinsic that multiplies words with the weights of their own lanes."""
    return f"{PREFIX}{dot.name}_taps_{lanes}"


@cheap_stacks()
def register_integer_intrinsics() -> None:
    """Registers the tensor intrinsics of integer kernels; what applies schedules with them needs this."""
    register_dot_products()
    if TensorIntrin.get(tap_intrinsic(DOT_PRODUCTS["vpdpbusd"], 16), allow_missing=True) is not None:
        return
    for dot in filter(_packs, DOT_PRODUCTS.values()):
        for lanes in dot.intrinsics:
            TensorIntrin.register(tap_intrinsic(dot, lanes), _description(dot, lanes), _implementation(dot, lanes))


def _description(dot: DotProduct, lanes: int) -> Any:
    """What an instruction computes, as TVM looks for it in a kernel."""
    group, weight = dot.group, dot.weights

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def description(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        words = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:lanes], words[0:lanes], weights[0:lanes, 0:group])
            T.writes(total[0:lanes])
            for i in range(lanes):
                for k in range(group):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        total[vi] = total[vi] + _element(dot, words[vi], vk) * T.cast(weights[vi, vk], "int32")

    return description


def _implementation(dot: DotProduct, lanes: int) -> Any:
    """The call of the instruction."""
    group, weight = dot.group, dot.weights
    elements = lanes * group

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def implementation(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        words = T.match_buffer(a, (lanes,), "int32", offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:lanes], words[0:lanes], weights[0:lanes, 0:group])
            T.writes(total[0:lanes])
            total[T.ramp(0, 1, lanes)] = dot.multiply(
                lanes,
                total[T.ramp(0, 1, lanes)],
                words[T.ramp(0, 1, lanes)],
                weights[0, T.ramp(0, 1, elements)],
            )

    return implementation
