"""From an ONNX model to fused TIR kernels in the interior layout, and from those to an executable library.

The pass order is what makes tuned kernels match: a kernel's identity (its structural hash) must be the same whether its
block is lowered alone or inside a net, and prepacked weights must become constants of the library.

TVM's unstable compiler API is used here and, for schedules, in :mod:`tvmfbnet.autotune.templates`, ``database`` and
``evolution``; nowhere else.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.ir import IRModule
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import dlight
from tvm.s_tir import meta_schedule as ms
from tvm_ffi import structural_hash

from tvmfbnet.compiler.executable import build_executable, is_conv_name
from tvmfbnet.compiler.float_tail import split_tail, with_tail
from tvmfbnet.compiler.integer_lowering import lower_quantised
from tvmfbnet.compiler.intrinsics import load_tensor_intrinsics
from tvmfbnet.compiler.mixed_lowering import lower_mixed
from tvmfbnet.compiler.mixed_model import units_in
from tvmfbnet.compiler.parallel import parallel_defaults
from tvmfbnet.compiler.scheduled_kernels import for_codegen
from tvmfbnet.compiler.unchecked import UNCHECKED, unchecked
from tvmfbnet.compiler.weight_copies import repeat_main
from tvmfbnet.compiler.wide_sums import widen_sums
from tvmfbnet.quantisation.post_training import is_quantised
from tvmfbnet.targets.tvm_target import compiles_for_cpu

# Interior layout of every convolution: activations NHWC, weights HWIO (then prepacked by the schedule).
INTERIOR_LAYOUT = "NHWC"
_CONV_LAYOUTS = {"relax.nn.conv2d": [INTERIOR_LAYOUT, "HWIO"]}


@relax.expr_functor.mutator
class _LayoutSimplifier(relax.PyExprMutator):  # type: ignore[misc]
    """Removes data movement left by the layout conversion, so that a part and a net get the same kernels.

    A transpose of a transpose becomes one or none; a transpose that moves only axes of size 1 becomes a reshape, and a
    reshape of a reshape becomes one (reshapes are free); a mean of a transpose is computed before the transpose.
    Weights are transposed immediately: TVM's own constant folding compiles a kernel for each.
    """

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Rewrites one call after its arguments."""
        call = self.visit_expr_post_order(call)
        match _operator(call):
            case "relax.permute_dims":
                return self._permute(call.args[0], _axes(call))
            case "relax.reshape":
                return self._reshape(call)
            case "relax.mean":
                return self._mean(call)
            case _:
                return call

    def _producer(self, value: relax.Expr) -> Any:
        return self.lookup_binding(value) if isinstance(value, relax.Var) else None

    def _constant(self, value: relax.Expr) -> Any:
        """The constant that an expression stands for, or None."""
        meant = self._producer(value) if isinstance(value, relax.Var) else value
        return meant if isinstance(meant, tvm.ir.GenericConst) else None

    def _reshape(self, call: relax.Call) -> relax.Expr:
        constant = self._constant(call.args[0])
        if constant is not None:
            values = constant.value.numpy().reshape([int(size) for size in call.ty.shape.values])
            return relax.const(values, str(values.dtype))
        inner = self._producer(call.args[0])
        return relax.op.reshape(inner.args[0], call.args[1]) if _operator(inner) == "relax.reshape" else call

    def _permute(self, source: relax.Expr, axes: list[int]) -> relax.Expr:
        constant = self._constant(source)
        if constant is not None:
            values = np.ascontiguousarray(constant.value.numpy().transpose(axes))
            return relax.const(values, str(values.dtype))
        inner = self._producer(source)
        if _operator(inner) == "relax.permute_dims":
            inner_axes = _axes(inner)
            source, axes = inner.args[0], [inner_axes[axis] for axis in axes]
        if axes == sorted(axes):
            return source
        shape = [int(size) for size in source.ty.shape.values]
        moved = [axis for axis in axes if shape[axis] != 1]
        if moved == sorted(moved):
            return self.visit_call_(self.builder_.normalize(relax.op.reshape(source, [shape[axis] for axis in axes])))
        return relax.op.permute_dims(source, axes)

    def _mean(self, call: relax.Call) -> relax.Expr:
        inner = self._producer(call.args[0])
        if _operator(inner) != "relax.permute_dims" or not call.attrs.keepdims or call.attrs.axis is None:
            return call
        axes = _axes(inner)
        mean = relax.op.mean(inner.args[0], sorted(axes[int(axis)] for axis in call.attrs.axis), keepdims=True)
        return self._permute(self.builder_.emit(mean), axes)


def _operator(expression: Any) -> str:
    """The name of the operator that is called, or an empty string."""
    called = isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op)
    return str(expression.op.name) if called else ""


def _axes(call: relax.Call) -> list[int]:
    """The permutation of a ``permute_dims`` call; the default is reversal."""
    rank = len(call.args[0].ty.shape.values)
    return [int(axis) for axis in call.attrs.axes] if call.attrs.axes is not None else list(range(rank))[::-1]


def _simplify_layout(mod: IRModule) -> IRModule:
    simplifier = _LayoutSimplifier(mod)
    for name, function in mod.functions_items():
        if isinstance(function, relax.Function):
            simplifier.builder_.update_func(name, simplifier.visit_expr(function))
    return relax.transform.DeadCodeElimination()(simplifier.builder_.get())


def import_onnx(model: onnx.ModelProto) -> IRModule:
    """Imports an ONNX model (NCHW, with weights) into Relax in the interior layout, without redundant transposes."""
    mod = from_onnx(model, keep_params_in_input=False)
    mod = tvm.transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.ConvertLayout(_CONV_LAYOUTS),
            relax.transform.Normalize(),
        ]
    )(mod)
    with unchecked():
        return relax.transform.FoldConstant()(widen_sums(_simplify_layout(mod)))


def fuse(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Lowers Relax operators to TIR and fuses them into kernels; marks weights whose layout is free."""
    with target, tvm.transform.PassContext(opt_level=3, config=UNCHECKED):
        return tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FoldConstant(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
                relax.transform.AttachAttrLayoutFreeBuffers(),
            ]
        )(mod)


def lower(model: onnx.ModelProto, target: tvm.target.Target) -> IRModule:
    """ONNX model to fused kernels: :func:`import_onnx`, then :func:`fuse`; integer kernels for one in QDQ form.

    A model of mixed dtypes is lowered stretch by stretch, and a quantised net's tail in float32.
    """
    if units_in(model):
        return lower_mixed(model, target, lambda stretch: fuse(import_onnx(stretch), target))
    if is_quantised(model):
        core, tail = split_tail(model)
        lowered = lower_quantised(core, target)
        return lowered if tail is None else with_tail(lowered, fuse(import_onnx(tail), target))
    return fuse(import_onnx(model), target)


@dataclass(frozen=True)
class Kernel:
    """One fused kernel of a lowered module.

    Attributes:
        key: structural hash of its TIR, equal for all occurrences of the kernel.
        name: TVM's name for it, which lists the fused operators.
        count: number of call sites.
        mod: its TIR as a module with one function ``main``.
    """

    key: str
    name: str
    count: int
    mod: IRModule

    @property
    def is_conv(self) -> bool:
        """Whether it multiplies by weights (a convolution or the classifier), as opposed to moving or adding data."""
        return is_conv_name(self.name)


def kernels_of(mod: IRModule, target: tvm.target.Target) -> list[Kernel]:
    """The distinct kernels of a fused module, as looked up in the tuning database."""
    tasks = ms.relax_integration.extract_tasks(mod, target)
    return [
        Kernel(kernel_key(task.dispatched[0]), task.task_name, int(task.weight), task.dispatched[0]) for task in tasks
    ]


def kernel_key(mod: IRModule) -> str:
    """Identity of a kernel: the structural hash of its module, as 16 hex digits."""
    return f"{structural_hash(mod) & (2**64 - 1):016x}"


@dataclass(frozen=True)
class Coverage:
    """How many of a module's conv kernels have tuned schedules, and the names of those without."""

    needed: int
    tuned: int
    missing: tuple[str, ...]


def coverage(mod: IRModule, target: tvm.target.Target, database: ms.Database | None) -> Coverage:
    """Looks every conv kernel of a fused module up in the database."""
    needed = [kernel for kernel in kernels_of(mod, target) if kernel.is_conv]
    missing = tuple(
        kernel.name
        for kernel in needed
        if database is None or database.query_tuning_record(kernel.mod, target, kernel.name) is None
    )
    return Coverage(len(needed), len(needed) - len(missing), missing)


def _planning_passes() -> list[tvm.transform.Pass]:
    return [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
    ]


def _lowering_passes() -> list[tvm.transform.Pass]:
    # The tail of TVM's default pipelines, the same for every backend; not all of them export it (cpu_generic does not).
    return [
        *_planning_passes(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]


def _default_schedules(mod: IRModule) -> IRModule:
    """Gives untuned GPU kernels a valid schedule, without which they cannot be built."""
    load_tensor_intrinsics()
    rules = [dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction()]
    rules += [dlight.gpu.GeneralReduction(), dlight.gpu.Fallback()]
    return dlight.ApplyDefaultSchedule(*rules)(mod.clone())  # the rules change their input in place


def prepare(mod: IRModule, target: tvm.target.Target, database: ms.Database | None) -> IRModule:
    """Applies the best schedules from the database to the kernels of a fused module.

    Weights that a schedule prepacks are transformed once, now, and become constants of the library.
    """
    scope = database if database is not None else nullcontext()
    with target, scope, tvm.transform.PassContext(opt_level=3, config=UNCHECKED):
        passes = []
        if database is not None:
            passes += [relax.transform.MetaScheduleApplyDatabase(), relax.transform.SplitLayoutRewritePreproc()]
        passes += [relax.transform.LiftTransformParams(), relax.transform.FoldConstant()]
        return tvm.transform.Sequential(passes)(mod)


def plan_memory(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """A module scheduled by :func:`prepare` with the memory plan that :func:`build_prepared` gives it."""
    with target, tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(_planning_passes())(mod)


def build_prepared(mod: IRModule, target: tvm.target.Target, checks: bool = True) -> relax.VMExecutable:
    """Builds a module scheduled by :func:`prepare`.

    Args:
        mod: to build.
        target: to build for.
        checks: whether kernels check their arguments (see :mod:`tvmfbnet.compiler.unchecked`).
    """
    with target, tvm.transform.PassContext(opt_level=3, config={} if checks else UNCHECKED):
        mod, compiled_for = for_codegen(mod, target)
        mod = parallel_defaults(mod, target) if compiles_for_cpu(target) else _default_schedules(mod)
        return build_executable(mod, compiled_for, _lowering_passes())


def build(
    mod: IRModule, target: tvm.target.Target, database: ms.Database | None, copies: int = 1
) -> relax.VMExecutable:
    """Builds a fused module with the best schedules from the database.

    Args:
        mod: from :func:`lower`.
        target: to build for.
        database: tuned schedules.
        copies: run ``main`` this many times, each with its own weights (see
            :mod:`tvmfbnet.compiler.weight_copies`); for timing parts.
    """
    return build_prepared(repeat_main(prepare(mod, target, database), copies), target)
