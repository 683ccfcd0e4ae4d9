"""Kernels that convert a tensor between reals and codes, at the borders between parts of different dtypes.

They are kernels of their own and not fused into their neighbours, so that these stay the kernels that were tuned and
timed, and a net takes the sum of its parts and conversions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc

from tvmfbnet.compiler import integer_kernels as kernels
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.integer_kernels import Draft, Quantisation
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.space.borders import DEQUANTISE, QUANTISE
from tvmfbnet.space.space import NetPart

# Elements of one step: several vectors of any CPU.
_LANES = 64
# Threads pay from this number of elements on.
_MANY = 2**15


def conversion(shape: Sequence[int], kind: str, quantisation: Quantisation, target: tvm.target.Target) -> IRModule:
    """A module whose ``main`` converts one tensor.

    Args:
        shape: of the tensor, in the interior layout.
        kind: ``quantise`` or ``dequantise``.
        quantisation: of the codes as the target stores them (:meth:`.quantised_model.QuantisedModel.quantisation`).
        target: to compile for.
    """
    dot, builder, count = dot_product_of(target), relax.BlockBuilder(), math.prod(shape)
    given, result = ("float32", dot.codes) if kind == QUANTISE else (dot.codes, "float32")
    source, draft = relax.Var("input", relax.TensorType(list(shape), given)), Draft(dot, [kind])
    with builder.function("main", [source]):
        with builder.dataflow():
            # Flat: few channels would not fill a vector, and reshapes are free.
            tensor = draft.argument(builder.emit(relax.op.reshape(source, [count])))
            if kind == QUANTISE:
                tensor = kernels.store(kernels.requantise(draft, tensor, quantisation), dot)
            else:
                tensor = kernels.reals_of(draft, tensor, quantisation)
            kernel = builder.add_func(_scheduled(draft.finish(tensor), target), f"fused_{kind}")
            flat = builder.emit(relax.call_tir(kernel, draft.arguments, relax.TensorType([count], result)))
            output = builder.emit_output(relax.op.reshape(flat, list(shape)))
        builder.emit_func_output(output)
    return relax.transform.LegalizeOps()(builder.get())


def _scheduled(kernel: PrimFunc, target: tvm.target.Target) -> PrimFunc:
    """The kernel, vectorised and on all threads; as it is, LLVM would convert element by element."""
    schedule = Schedule(kernel)
    *inner, last = schedule.get_child_blocks(schedule.get_sblock("root"))
    for block in inner:
        schedule.compute_inline(block)
    loop = schedule.fuse(*schedule.get_loops(last))
    count = int(schedule.get(loop).extent)
    lanes = math.gcd(count, _LANES)
    outer, vector = schedule.split(loop, [None, lanes])
    threads = int(target.attrs.get("num-cores", 1))
    if threads > 1 and count >= _MANY:
        schedule.parallel(outer)
    schedule.vectorize(vector)
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def conversion_part(part: NetPart, target: tvm.target.Target) -> IRModule:
    """A conversion as timed on its own, with a scale and a zero point on which its latency does not depend.

    Args:
        part: of :func:`tvmfbnet.space.borders.conversions_of`.
        target: to compile for.
    """
    if part.block not in (QUANTISE, DEQUANTISE):
        raise ValueError(f"{part.name} is no conversion")
    offset = dot_product_of(target).offset
    return conversion(
        part_input_shape(part), part.block, Quantisation(0.05, 120 - offset, -offset, 255 - offset), target
    )
