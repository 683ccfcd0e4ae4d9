"""From lowered Relax to an executable: as TVM's own build does it, with the kernels in several modules of LLVM.

The objects of several modules can be emitted at the same time (:mod:`tvmfbnet.compiler.library`).

Without a schedule, the innermost loop of a convolution runs over its input channels. At LLVM's most aggressive level
it is unrolled up to a hundred channels and more, and writing the code of one such pointwise kernel takes LLVM two
seconds, for code that is no faster. At the level below, the loop stays a loop. Tuned kernels have short loops and keep
the level that they were timed with, as do kernels that only move or add data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax
from tvm.driver import build
from tvm.ir import IRModule
from tvm.relax import vm_build
from tvm.tirx import PrimFunc

from tvmfbnet.compiler.llvm_options import with_options

_PLAIN_LEVEL = 2
# Modules of each kind of kernels. The same on every machine, and with them the library's bytes.
_MODULES = 2
# Fewer kernels than this are not worth another module, which takes 20 ms.
_FEW_KERNELS = 8


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
    if target.kind.name != "llvm":
        return relax.build(lowered, target=target, relax_pipeline=None)
    constants = dict(lowered.attrs or {}).get("const_name_to_constant", {})
    builder = relax.ExecBuilder()
    leftover = vm_build._vmcodegen(builder, lowered, "bytecode")
    kernels = {name: kernel for name, kernel in leftover.functions_items() if isinstance(kernel, PrimFunc)}
    plain = {name: kernel for name, kernel in kernels.items() if _is_plain(name.name_hint, kernel)}
    others = {name: kernel for name, kernel in kernels.items() if name not in plain}
    shares = [(share, target) for share in _shares(others)]
    shares += [(share, with_options(target, opt_level=_PLAIN_LEVEL)) for share in _shares(plain)]
    libraries = [build(IRModule(share, attrs=lowered.attrs), target=each) for share, each in shares]
    # One is the library itself, the others are linked to it; without kernels there is none.
    first, *imported = libraries or [None]
    return relax.VMExecutable(vm_build._ffi_api.VMLink(builder, target, first, imported, dict(constants)))


def _shares(kernels: Mapping[tvm.ir.GlobalVar, PrimFunc]) -> list[dict[tvm.ir.GlobalVar, PrimFunc]]:
    """The kernels of each module, none of which is empty."""
    names = sorted(kernels, key=lambda name: str(name.name_hint))
    count = _MODULES if len(names) >= _FEW_KERNELS else min(1, len(names))
    return [{name: kernels[name] for name in names[number::count]} for number in range(count)]


def _is_plain(name: str, function: PrimFunc) -> bool:
    is_scheduled = function.attrs is not None and bool(function.attrs.get("tirx.is_scheduled"))
    return is_conv_name(name) and not is_scheduled
