"""A part several times in a row, each time with weights of its own: how a part's weights arrive in a net.

Timed alone in a loop a part finds its weights in the cache next to the core; in a net the other layers have pushed
them out since the last image. Going around enough copies of the weights does the same.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule


def constant_bytes(mod: IRModule) -> int:
    """Bytes of all constants that ``main`` uses."""
    found: list[tvm.ir.GenericConst] = []
    relax.analysis.post_order_visit(
        mod["main"], lambda node: found.append(node) if isinstance(node, tvm.ir.GenericConst) else None
    )
    return sum(constant.value.numpy().nbytes for constant in found)


@relax.expr_functor.mutator
class _Copier(relax.PyExprMutator):  # type: ignore[misc]
    """Rewrites expressions with constants of their own; variables are replaced by what they stand for in this copy."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = np.float32(scale)
        self._stands_for: list[tuple[relax.Var, relax.Expr]] = []

    def replace(self, old: relax.Var, new: relax.Expr) -> None:
        """From now on ``old`` means ``new``."""
        self._stands_for.append((old, new))

    def visit_var_(self, variable: relax.Var) -> relax.Expr:
        """The variable's replacement."""
        return next((new for old, new in self._stands_for if old.same_as(variable)), variable)

    def visit_dataflow_var_(self, variable: relax.DataflowVar) -> relax.Expr:
        """The variable's replacement."""
        return self.visit_var_(variable)

    def visit_generic_const_(self, constant: tvm.ir.GenericConst) -> relax.Expr:
        """A constant of other values: equal ones would be stored once."""
        values = constant.value.numpy()
        changed = values * self._scale if values.dtype == np.float32 else values
        return relax.const(changed, str(values.dtype))


def repeat_main(mod: IRModule, copies: int) -> IRModule:
    """Makes ``main`` compute its result ``copies`` times from the same input, each time with slightly other weights.

    It returns the last result, which is that of the weights it had.

    Args:
        mod: a module of kernels whose ``main`` is one dataflow of calls.
        copies: how often, 1 or more.
    """
    if copies == 1:
        return mod
    main = mod["main"]
    builder = relax.BlockBuilder(mod)
    parameters = [relax.Var(f"input{number}", parameter.ty) for number, parameter in enumerate(main.params)]
    with builder.function("repeated", parameters):
        result: relax.Expr = parameters[0]
        with builder.dataflow():
            for number in range(copies):
                copier = _Copier(1.0 + 1e-3 * (copies - 1 - number))
                for old, new in zip(main.params, parameters, strict=True):
                    copier.replace(old, new)
                for block in main.body.blocks:
                    for binding in block.bindings:
                        copier.replace(binding.var, builder.emit(copier.visit_expr(binding.value)))
                result = copier.visit_expr(main.body.body)
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    repeated = builder.get()
    function = repeated["repeated"].with_attr("global_symbol", "main")
    del repeated["repeated"]
    repeated.update_func(repeated.get_global_var("main"), function)
    return repeated
