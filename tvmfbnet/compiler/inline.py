"""Splices a lowered part's calls into a larger function, to chain parts."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.tirx import PrimFunc

# Types of quantised weights; other integers are indices and shapes.
_INTEGER_WEIGHTS = (np.dtype("int8"), np.dtype("int16"))


@relax.expr_functor.mutator
class _Splicer(relax.PyExprMutator):  # type: ignore[misc]
    """Rewrites one part's expressions: replaces variables and kernels, scales constants."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number, self._scale = number, 1.0 + 1e-3 * number
        self._variables: list[tuple[relax.Var, relax.Expr]] = []
        self.kernels: dict[str, tvm.ir.GlobalVar] = {}

    def replace(self, old: relax.Var, new: relax.Expr) -> None:
        """Replaces ``old`` by ``new`` from now on."""
        self._variables.append((old, new))

    def visit_var_(self, variable: relax.Var) -> relax.Expr:
        """The variable's replacement."""
        return next((new for old, new in self._variables if old.same_as(variable)), variable)

    def visit_dataflow_var_(self, variable: relax.DataflowVar) -> relax.Expr:
        """The variable's replacement."""
        return self.visit_var_(variable)

    def visit_global_var_(self, variable: tvm.ir.GlobalVar) -> relax.Expr:
        """The kernel's replacement."""
        return self.kernels.get(variable.name_hint, variable)

    def visit_generic_const_(self, constant: tvm.ir.GenericConst) -> relax.Expr:
        """The scaled constant: equal ones would be stored once, and stay in the cache for the next use."""
        if self._scale == 1.0:
            return constant
        values = constant.value.numpy()
        if values.dtype in _INTEGER_WEIGHTS:
            rolled = np.roll(values, self._number)
            return relax.const(rolled, str(values.dtype))
        if not np.issubdtype(values.dtype, np.floating):
            return constant  # indices and shapes
        return relax.const(values * values.dtype.type(self._scale), str(values.dtype))


def splice(builder: relax.BlockBuilder, part: IRModule, *values: relax.Expr, number: int = 0) -> relax.Expr:
    """Emits the calls of a part's ``main`` with ``values`` as its inputs, kernels included; returns its output.

    Args:
        builder: inside a dataflow block of the larger function.
        part: a module of kernels whose ``main`` is one dataflow of calls.
        values: what it takes.
        number: weights are scaled by 1 + number / 1000, or rotated by that many places if they are integers, so that
            each copy of a part that is spliced several times has its own weights.
    """
    main, splicer = part["main"], _Splicer(number)
    for given, value in zip(main.params, values, strict=True):
        splicer.replace(given, value)
    for name, function in part.functions_items():
        if isinstance(function, PrimFunc):
            splicer.kernels[name.name_hint] = builder.add_func(function, name.name_hint)
    for block in main.body.blocks:
        for binding in block.bindings:
            value = splicer.visit_expr(binding.value)
            # Several outputs are no tensor of their own.
            splicer.replace(binding.var, value if isinstance(value, relax.Tuple) else builder.emit(value))
    return splicer.visit_expr(main.body.body)
