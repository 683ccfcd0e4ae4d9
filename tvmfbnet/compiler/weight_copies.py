"""A part several times in a row, each time with weights of its own: how a part's weights arrive in a net.

Timed alone in a loop a part finds its weights in the cache next to the core; in a net the other layers have pushed
them out since the last image. Going around enough copies of the weights does the same.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import IRModule

from tvmfbnet.compiler.inline import splice


def constant_bytes(mod: IRModule) -> int:
    """Bytes of all constants that ``main`` uses."""
    found: list[tvm.ir.GenericConst] = []
    relax.analysis.post_order_visit(
        mod["main"], lambda node: found.append(node) if isinstance(node, tvm.ir.GenericConst) else None
    )
    return sum(constant.value.numpy().nbytes for constant in found)


def repeat_main(mod: IRModule, copies: int) -> IRModule:
    """Makes ``main`` compute its result ``copies`` times from the same input, each time with slightly other weights.

    It returns the last result, which is that of the weights it had.

    Args:
        mod: a module of kernels whose ``main`` is one dataflow of calls.
        copies: how often, 1 or more.
    """
    if copies == 1:
        return mod
    builder = relax.BlockBuilder(mod)
    source = relax.Var("input", mod["main"].params[0].ty)
    with builder.function("repeated", [source]):
        result: relax.Expr = source
        with builder.dataflow():
            for number in reversed(range(copies)):
                result = splice(builder, mod, source, number)
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    repeated = builder.get()
    function = repeated["repeated"].with_attr("global_symbol", "main")
    del repeated["repeated"]
    repeated.update_func(repeated.get_global_var("main"), function)
    return repeated
