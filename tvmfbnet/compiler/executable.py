"""From lowered Relax to an executable: TVM's own build, with convolutions that nobody tuned compiled apart.

Without a schedule, the innermost loop of a convolution runs over its input channels. LLVM's most aggressive level
unrolls it up to 120 times; each step reads another row of the weights, and choosing the addresses of so many reads
takes LLVM two seconds of one pointwise kernel, for code that is no faster. At the level below, the loop stays a loop.
Tuned kernels have short loops and keep the level that they were timed with, as do kernels that only move or add data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.driver import build
from tvm.ir import IRModule
from tvm.relax import vm_build
from tvm.tirx import PrimFunc

from tvmfbnet.compiler.llvm_options import with_options

_PLAIN_LEVEL = 2


def is_conv_name(name: str) -> bool:
    """Whether a kernel multiplies by weights (a convolution or the classifier), by TVM's name for it."""
    return "conv2d" in name or "matmul" in name


def build_executable(
    mod: IRModule, target: tvm.target.Target, passes: Sequence[tvm.transform.Pass]
) -> relax.VMExecutable:
    """Builds a module in the current pass context.

    Args:
        mod: to build.
        target: to build for.
        passes: from Relax to what TVM's virtual machine runs.
    """
    with target:
        lowered = tvm.transform.Sequential(list(passes))(mod)
    plain = {name: kernel for name, kernel in lowered.functions_items() if _is_plain(name.name_hint, kernel)}
    if target.kind.name != "llvm" or not plain:
        return relax.build(lowered, target=target, relax_pipeline=None)
    constants = dict(lowered.attrs or {}).get("const_name_to_constant", {})
    builder = relax.ExecBuilder()
    kernels = dict(vm_build._vmcodegen(builder, lowered, "bytecode").functions_items())
    others = {name: kernel for name, kernel in kernels.items() if name not in plain}
    return vm_build._vmlink(
        builder,
        target,
        IRModule(others, attrs=lowered.attrs),
        ext_libs=[build(IRModule(plain, attrs=lowered.attrs), target=with_options(target, opt_level=_PLAIN_LEVEL))],
        params=dict(constants),
    )


def _is_plain(name: str, function: Any) -> bool:
    is_scheduled = function.attrs is not None and bool(function.attrs.get("tirx.is_scheduled"))
    return isinstance(function, PrimFunc) and is_conv_name(name) and not is_scheduled
