"""Integer dot products of pairs of pixels (``smmla``): the TVM tensor intrinsics, and the pointwise sums that use them.

The instruction multiplies two pixels by two output channels, eight bytes each, and adds to a 2 x 2 tile of sums. Sums
are kept as such tiles, which the epilogue takes apart again. Input is read where it is, in two halves, or from a copy
in which pairs stand together: a schedule decides (:mod:`tvmfbnet.autotune.dot_templates`). In a copy, rows of an odd
number of pixels end with their last pixel twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm import te, tirx
from tvm.script import tirx as T

if TYPE_CHECKING:
    from tvmfbnet.compiler.dot_products import DotProduct


def paired_sums(
    source: te.Tensor, packed: te.Tensor, dot: DotProduct, stride: int, width: int, attrs: dict[str, str]
) -> te.Tensor:
    """The integer sums (1, H, W, groups, C) of a pointwise convolution.

    Args:
        source: codes (1, H, W, groups * depth), the depth of a group a multiple of the instruction's.
        packed: weights (groups, steps, C / lanes, lanes, bytes of a step).
        dot: the instruction.
        stride: of the convolution.
        width: W of the output.
        attrs: of the block that sums.
    """
    groups, steps, tiles, lanes, group = (int(size) for size in packed.shape)
    height = (int(source.shape[1]) - 1) // stride + 1
    pixels, last = dot.pixels, tirx.const(width - 1, "int32")

    def code(b: Any, y: Any, x: Any, k: Any, i: Any, n: Any) -> Any:
        column = x * pixels + i
        column = tirx.min(column, last) if width % pixels else column
        return source[b, y * stride, column * stride, k * group + n]

    pairs = te.compute((1, height, math.ceil(width / pixels), groups * steps, pixels, group), code, name="pairs")
    k, n = te.reduce_axis((0, steps), name="k"), te.reduce_axis((0, group), name="n")

    def total(b: Any, y: Any, x: Any, g: Any, c: Any, i: Any, j: Any) -> Any:
        element = pairs[b, y, x, g * steps + k if groups > 1 else k, i, n]
        return te.sum(element.astype("int32") * packed[g, k, c, j, n].astype("int32"), axis=[k, n])

    shape = (1, height, math.ceil(width / pixels), groups, tiles, pixels, lanes)
    sums = te.compute(shape, total, name="conv2d_dot", attrs=attrs)
    return te.compute(
        (1, height, width, groups, tiles * lanes),
        lambda b, y, x, g, c: sums[b, y, x // pixels, g, c // lanes, x % pixels, c % lanes],
        name="sums",
    )


def paired_intrinsic(dot: DotProduct, lanes: int, strided: bool) -> tuple[Any, Any]:
    """What the instruction computes, as TVM looks for it in a kernel, and its call.

    Args:
        dot: the instruction.
        lanes: output channels.
        strided: whether its pixels are apart in memory.
    """
    return _description(dot, lanes), (_strided if strided else _together)(dot, lanes)


def _description(dot: DotProduct, lanes: int) -> Any:
    pixels, group, operand, weight = dot.pixels, dot.group, dot.operand, dot.weights

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def description(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        codes = T.match_buffer(a, (pixels, group), operand, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (pixels, lanes), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:pixels, 0:lanes], codes[0:pixels, 0:group], weights[0:lanes, 0:group])
            T.writes(total[0:pixels, 0:lanes])
            for i, j, k in T.grid(pixels, lanes, group):
                with T.sblock("update"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    total[vi, vj] = total[vi, vj] + T.cast(codes[vi, vk], "int32") * T.cast(weights[vj, vk], "int32")

    return description


def _product(dot: DotProduct, lanes: int, total: Any, codes: Any, weights: Any) -> Any:
    return tirx.op.call_llvm_pure_intrin(f"int32x{dot.pixels * lanes}", dot.intrinsics[lanes], total, codes, weights)


def _together(dot: DotProduct, lanes: int) -> Any:
    pixels, group, operand, weight = dot.pixels, dot.group, dot.operand, dot.weights
    sums, given, taken = pixels * lanes, pixels * group, lanes * group

    def product(*operands: Any) -> Any:
        return _product(dot, lanes, *operands)

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def implementation(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        codes = T.match_buffer(a, (pixels, group), operand, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (pixels, lanes), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:pixels, 0:lanes], codes[0:pixels, 0:group], weights[0:lanes, 0:group])
            T.writes(total[0:pixels, 0:lanes])
            total[0, T.ramp(0, 1, sums)] = product(
                total[0, T.ramp(0, 1, sums)], codes[0, T.ramp(0, 1, given)], weights[0, T.ramp(0, 1, taken)]
            )

    return implementation


def _strided(dot: DotProduct, lanes: int) -> Any:
    pixels, group, operand, weight = dot.pixels, dot.group, dot.operand, dot.weights
    sums, taken = pixels * lanes, lanes * group

    def product(total: Any, rows: list[Any], weights: Any) -> Any:
        # As whole 64-bit words, which LLVM loads into the halves of a register.
        words = [tirx.reinterpret("int64", row) for row in rows]
        codes = tirx.reinterpret(f"{operand}x{pixels * group}", tirx.Shuffle(words, list(range(pixels))))
        return _product(dot, lanes, total, codes, weights)

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def implementation(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        step = T.int32()
        codes = T.match_buffer(a, (pixels, group), operand, offset_factor=1, strides=[step, 1])
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (pixels, lanes), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:pixels, 0:lanes], codes[0:pixels, 0:group], weights[0:lanes, 0:group])
            T.writes(total[0:pixels, 0:lanes])
            total[0, T.ramp(0, 1, sums)] = product(
                total[0, T.ramp(0, 1, sums)],
                [codes[0, T.ramp(0, 1, group)], codes[1, T.ramp(0, 1, group)]],
                weights[0, T.ramp(0, 1, taken)],
            )

    return implementation
