"""Integer dot products of CPUs, and which of them a target has.

An instruction multiplies a few neighbouring bytes (or 16-bit words) in each lane and adds their sum to a 32-bit
accumulator. Each is registered as a TVM tensor intrinsic that multiplies one group of activations with the weights of
as many channels as there are lanes.

x86 with AVX-512-VNNI has ``vpdpbusd`` (unsigned by signed bytes, four in a lane). Other x86 get ``vpmaddwd`` on data
widened to 16 bits: ``vpmaddubsw`` takes bytes, but saturates. ARM has ``sdot`` with its dotprod feature, and with i8mm
``smmla``, which multiplies two pixels by two channels, eight bytes each: twice as many products. Everything else
multiplies element by element, which LLVM turns into widening multiply-adds (``smlal``).

ARM's ``usmmla`` and ``usdot`` take unsigned codes, in the same time by Arm's optimisation guides. They would gain
nothing: the shift to signed codes disappears in biases, and depthwise kernels, which neither multiplies, get longer
with unsigned ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from tvmfbnet.compiler.intrinsics import cheap_stacks
from tvmfbnet.compiler.paired_products import paired_intrinsic
from tvmfbnet.targets.tvm_target import compiles_for_cpu

# Of the names of tensor intrinsics.
PREFIX = "tvmfbnet_dot_"


@dataclass(frozen=True)
class DotProduct:
    """How a CPU multiplies integers.

    Attributes:
        name: of the instruction, empty where there is none.
        group: elements multiplied per lane and instruction; 1 without an instruction.
        codes: type of activations in memory: ``uint8``, or ``int8`` (moved by 128) where bytes are multiplied signed.
        operand: type of activations as the instruction takes them.
        weights: type of the weights.
        intrinsics: LLVM's name of the instruction by number of lanes, each of which is an output channel.
        pixels: neighbouring pixels of a row that it multiplies with the same weights.
        paired: the CPU's other instruction, which multiplies pairs of pixels, if it has one.
        saturates: whether results become codes by instructions that round, and that clip as they narrow; else floats
            are clipped, and rounded by an addition.
        shares_rows: whether all windows of a depthwise convolution share the words into which taps are packed.
    """

    name: str
    group: int
    codes: str
    operand: str
    weights: str
    intrinsics: Mapping[int, str] = field(default_factory=dict)
    pixels: int = 1
    paired: DotProduct | None = None
    saturates: bool = False
    shares_rows: bool = False

    @property
    def offset(self) -> int:
        """What is taken from an unsigned code to get the one in memory."""
        return 128 if self.codes == "int8" else 0

    def lanes(self, channels: int) -> int:
        """Lanes of the instruction for that many output channels, which are padded to whole lanes."""
        fitting = [lanes for lanes in sorted(self.intrinsics) if lanes >= channels]
        return fitting[0] if fitting else max(self.intrinsics, default=1)

    def whole_lanes(self, channels: int) -> int:
        """Lanes of the instruction that need no padding; 0 where there are none."""
        return max((lanes for lanes in self.intrinsics if channels % lanes == 0), default=0)

    def multiply(self, lanes: int, total: Any, codes: Any, weights: Any) -> Any:
        """The call of the instruction: ``total`` and the products of vectors of codes and weights."""
        vector, instruction = f"int32x{lanes}", self.intrinsics[lanes]
        # LLVM's instructions take signed elements, whatever they mean.
        signed = tirx.reinterpret(f"{self.weights}x{lanes * self.group}", codes)
        if self.name.startswith("vpmaddwd"):  # adds up the products of a lane only
            return total + tirx.op.call_llvm_pure_intrin(vector, instruction, signed, weights)
        return tirx.op.call_llvm_pure_intrin(vector, instruction, total, signed, weights)

    def for_pointwise(self, width: int, reduction: int, channels: int) -> DotProduct:
        """What multiplies rows of ``width`` pixels: the instruction for pairs where fewer do, else this one."""
        if self.paired is None or not self.paired.whole_lanes(channels):
            return self
        pairs, single = (dot._instructions(width, reduction, channels) for dot in (self.paired, self))
        return self.paired if pairs < single else self

    def _instructions(self, width: int, reduction: int, channels: int) -> int:
        steps = math.ceil(width / self.pixels) * math.ceil(reduction / self.group)
        return steps * math.ceil(channels / self.lanes(channels))


_VNNI = DotProduct(
    "vpdpbusd",
    4,
    "uint8",
    "uint8",
    "int8",
    {lanes: f"llvm.x86.avx512.vpdpbusd.{32 * lanes}" for lanes in (16, 8, 4)},
)
_MADD = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_AVX512 = DotProduct("vpmaddwd512", 2, "uint8", "int16", "int16", _MADD)
_AVX2 = DotProduct(
    "vpmaddwd",
    2,
    "uint8",
    "int16",
    "int16",
    {lanes: _MADD[lanes] for lanes in (4, 8)},
    saturates=True,
    shares_rows=True,
)
_SDOT = DotProduct("sdot", 4, "int8", "int8", "int8", {4: "llvm.aarch64.neon.sdot.v4i32.v16i8"})
_SMMLA = DotProduct("smmla", 8, "int8", "int8", "int8", {2: "llvm.aarch64.neon.smmla.v4i32.v16i8"}, pixels=2)
_WIDENING = DotProduct("", 1, "int8", "int8", "int8")
_SCALAR = DotProduct("", 1, "uint8", "uint8", "int8")
DOT_PRODUCTS = {dot.name: dot for dot in (_VNNI, _AVX512, _AVX2, _SDOT, _SMMLA)}


def dot_product_of(target: tvm.target.Target) -> DotProduct:
    """How a target multiplies integers, from its enabled features."""
    from tvm.target.codegen import llvm_get_cpu_features, llvm_get_system_triple

    if not compiles_for_cpu(target) or target.kind.name != "llvm":
        return _SCALAR
    machine = str(target.attrs.get("mtriple") or llvm_get_system_triple()).split("-")[0]
    features = {str(feature) for feature in llvm_get_cpu_features(target)}
    if machine.startswith(("aarch64", "arm64")):
        if {"dotprod", "i8mm"} <= features:
            return replace(_SDOT, paired=_SMMLA)
        return _SDOT if "dotprod" in features else _WIDENING
    if machine not in ("x86_64", "i386", "i686"):
        return _WIDENING
    if {"avx512vnni", "avx512vl"} <= features:
        return _VNNI
    if "avx512bw" in features:
        return _AVX512
    return _AVX2 if "avx2" in features else _SCALAR


def intrinsic_name(dot: DotProduct, lanes: int, strided: bool = False) -> str:
    """The tensor intrinsic of a dot product; ``strided``: its pixels are apart in memory."""
    return f"{PREFIX}{dot.name}_{lanes}" + ("_strided" if strided else "")


@cheap_stacks()
def register_dot_products() -> None:
    """Registers the tensor intrinsics of all instructions; what applies schedules with them needs this."""
    if TensorIntrin.get(intrinsic_name(_VNNI, 16), allow_missing=True) is not None:
        return
    for dot in DOT_PRODUCTS.values():
        for lanes in dot.intrinsics:
            if dot.pixels == 1:
                TensorIntrin.register(intrinsic_name(dot, lanes), _description(dot, lanes), _implementation(dot, lanes))
                continue
            for strided in (False, True):
                name = intrinsic_name(dot, lanes, strided)
                TensorIntrin.register(name, *paired_intrinsic(dot, lanes, strided))


def _description(dot: DotProduct, lanes: int) -> Any:
    """What an instruction computes, as TVM looks for it in a kernel."""
    group, operand, weight = dot.group, dot.operand, dot.weights

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def description(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        codes = T.match_buffer(a, (group,), operand, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:lanes], codes[0:group], weights[0:lanes, 0:group])
            T.writes(total[0:lanes])
            for i in range(lanes):
                for k in range(group):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        total[vi] = total[vi] + T.cast(codes[vk], "int32") * T.cast(weights[vi, vk], "int32")

    return description


def _implementation(dot: DotProduct, lanes: int) -> Any:
    """The call of the instruction."""
    group, operand, weight = dot.group, dot.operand, dot.weights
    elements = lanes * group

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def implementation(a: T.handle, b: T.handle, c: T.handle):  # type: ignore[no-untyped-def]
        codes = T.match_buffer(a, (group,), operand, offset_factor=1)
        weights = T.match_buffer(b, (lanes, group), weight, offset_factor=1)
        total = T.match_buffer(c, (lanes,), "int32", offset_factor=1, scope="local")
        with T.sblock("root"):
            T.reads(total[0:lanes], codes[0:group], weights[0:lanes, 0:group])
            T.writes(total[0:lanes])
            total[T.ramp(0, 1, lanes)] = dot.multiply(
                lanes,
                total[T.ramp(0, 1, lanes)],
                T.broadcast(T.reinterpret("int32", codes[T.ramp(0, 1, group)]), lanes),
                weights[0, T.ramp(0, 1, elements)],
            )

    return implementation
