"""Repeats a part with different copies of its weights, to time it with cold weights as in a net.

A part timed alone in a loop finds its weights in the nearest cache; in a net the other layers have evicted them since
the last image. Cycling through enough copies of the weights has the same effect.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from tvmfbnet.compiler.inline import splice


def constant_bytes(mod: IRModule) -> int:
    """Total bytes of the constants that ``main`` uses."""
    constants: list[tvm.ir.GenericConst] = []
    relax.analysis.post_order_visit(
        mod["main"], lambda node: constants.append(node) if isinstance(node, tvm.ir.GenericConst) else None
    )
    return sum(constant.value.numpy().nbytes for constant in constants)


def repeat_main(mod: IRModule, copies: int) -> IRModule:
    """Makes ``main`` compute its result ``copies`` times from the same input, with slightly different weights each.

    It returns the last result, which uses the original weights.

    Args:
        mod: a module of kernels whose ``main`` is one dataflow of calls.
        copies: number of repetitions, at least 1.
    """
    if copies == 1:
        return mod
    builder = relax.BlockBuilder(mod)
    source = relax.Var("input", mod["main"].params[0].ty)
    with builder.function("repeated", [source]):
        result: relax.Expr = source
        with builder.dataflow():
            for number in reversed(range(copies)):
                result = splice(builder, mod, source, number=number)
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    repeated = builder.get()
    function = repeated["repeated"].with_attr("global_symbol", "main")
    del repeated["repeated"]
    repeated.update_func(repeated.get_global_var("main"), function)
    return repeated
