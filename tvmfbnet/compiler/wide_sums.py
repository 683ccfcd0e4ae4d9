"""Sums of halves: kernels of float16 nets add up in float32, or in half where a schedule says so and the CPU can.

Products of halves have 22 bits and their sums more: adding up in half loses digits with every product. So
:func:`widen_sums` makes every convolution, product and mean of halves add up in float32 and round once. That is the
kernel's identity. A schedule may set the type of the sum back to half (TVM's ``unsafe_set_dtype``); what it leaves,
which rounds a float32 sum after every product, :func:`narrow_half_sums` turns into arithmetic in half.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te, tirx
from tvm.ir import IRModule
from tvm_ffi import structural_map

HALF, SINGLE = "float16", "float32"


@relax.expr_functor.mutator
class _SumWidener(relax.PyExprMutator):  # type: ignore[misc]
    """Gives the sums of halves the type float32."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Rewrites one call after its arguments."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or _type_of(call) != HALF:
            return call
        match call.op.name:
            case "relax.nn.conv2d":
                names = ("strides", "padding", "dilation", "groups", "data_layout", "kernel_layout", "out_layout")
                given = {name: getattr(call.attrs, name) for name in names}
                return self._rounded(relax.op.nn.conv2d(*call.args, **given, out_dtype=SINGLE))
            case "relax.matmul":
                return self._rounded(relax.op.matmul(*call.args, out_dtype=SINGLE))
            case "relax.mean" if call.attrs.keepdims and call.attrs.axis is not None:
                axes = tuple(int(axis) for axis in call.attrs.axis)
                return self.builder_.call_te(_mean, call.args[0], axes, primfunc_name_hint="mean")
            case _:
                return call

    def _rounded(self, value: relax.Expr) -> relax.Expr:
        return relax.op.astype(self.builder_.emit(value), HALF)


def _type_of(call: relax.Call) -> str:
    return str(getattr(call.ty, "dtype", ""))


def _mean(x: te.Tensor, axes: tuple[int, ...]) -> te.Tensor:
    """The mean over some axes, which keep the size 1: summed and divided in float32, then rounded."""
    extents = [int(size) for size in x.shape]
    count = 1
    for axis in axes:
        count *= extents[axis]
    reduced = {axis: te.reduce_axis((0, extents[axis]), f"k{axis}") for axis in axes}
    shape = [1 if axis in reduced else extent for axis, extent in enumerate(extents)]

    def one(*place: Any) -> Any:
        source = [reduced.get(axis, index) for axis, index in enumerate(place)]
        return te.sum(x(*source).astype(SINGLE), axis=list(reduced.values()))

    total = te.compute(shape, one, name="mean_red")
    return te.compute(shape, lambda *place: (total(*place) / tirx.const(count, SINGLE)).astype(HALF), name="mean")


def widen_sums(mod: IRModule) -> IRModule:
    """A Relax module whose convolutions, products and means of halves add up in float32; others are left alone."""
    widener = _SumWidener(mod)
    for name, function in mod.functions_items():
        if isinstance(function, relax.Function):
            widener.builder_.update_func(name, widener.visit_expr(function))
    return widener.builder_.get()


def narrow_half_sums(mod: IRModule) -> IRModule:
    """Scheduled kernels in which sums that are kept in half are also added up in half.

    ``half(single(sum) + single(a) * single(b))`` becomes ``sum + a * b``, which is one instruction on CPUs that compute
    with halves. Nothing else changes: kernels that keep their sums in float32 have no such expression.
    """
    for name, function in mod.functions_items():
        if isinstance(function, tirx.PrimFunc):
            body = structural_map(function.body, (tirx.Cast, _narrowed))
            if not body.same_as(function.body):
                mod = IRModule({**dict(mod.functions_items()), name: function.with_body(body)}, attrs=mod.attrs)
    return mod


def _narrowed(cast: tirx.Cast) -> Any:
    """The expression to put in place of a cast; the cast itself to leave it."""
    if _dtype(cast) != HALF:
        return cast
    value = cast.value
    if _is_wide_half(value):
        return value.value
    if isinstance(value, tirx.Add) and _is_wide_half(value.a) and isinstance(value.b, tirx.Mul):
        product = value.b
        if _is_wide_half(product.a) and _is_wide_half(product.b):
            return value.a.value + product.a.value * product.b.value
    return cast


def _is_wide_half(value: Any) -> bool:
    """Whether this is a half that is converted to float32."""
    return isinstance(value, tirx.Cast) and _dtype(value) == SINGLE and _dtype(value.value) == HALF


def _dtype(value: Any) -> str:
    return str(getattr(value, "dtype", None) or value.ty.dtype)
