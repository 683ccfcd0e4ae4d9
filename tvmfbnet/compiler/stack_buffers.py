"""Small local buffers of CPU kernels go on the stack, where LLVM turns them into registers.

TVM allocates buffers of the scope ``local``, in which schedules keep the sums of a tile, from a workspace at run time.
LLVM keeps those in registers only where it can prove that nothing else reads the workspace, and never a buffer that is
written as a vector and read one element at a time. Buffers of the scope ``global`` below a kibibyte lie on the stack,
and LLVM promotes all of them.

Kernels for x86 with AVX-512 stay as they are: their tiles of 32 wide registers do not fit below a kibibyte.
"""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.ir import IRModule
from tvm.s_tir import SBlockRealize, Schedule

_X86 = ("x86_64", "i386", "i686", "amd64")


def is_x86(target: tvm.target.Target) -> bool:
    """Whether a CPU target's kernels are for x86."""
    from tvm.target.codegen import llvm_get_system_triple

    return str(target.attrs.get("mtriple") or llvm_get_system_triple()).split("-")[0] in _X86


def _fills_kibibyte(target: tvm.target.Target) -> bool:
    """Whether all vector registers together hold more than the stack does: 32 of 64 bytes."""
    from tvm.target.codegen import llvm_get_cpu_features

    return is_x86(target) and "avx512f" in {str(feature) for feature in llvm_get_cpu_features(target)}


def use_stack(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Scheduled kernels with their local buffers on the stack, where these fit; other functions as they are."""
    if target.kind.name != "llvm" or _fills_kibibyte(target):
        return mod
    functions = dict(mod.functions_items())
    moved = {name: _moved(function) for name, function in functions.items() if isinstance(function, tirx.PrimFunc)}
    return IRModule({**functions, **moved}, attrs=mod.attrs) if moved else mod


def _moved(function: tirx.PrimFunc) -> tirx.PrimFunc:
    if not isinstance(function.body, SBlockRealize):
        return function  # has no blocks, so no schedule made its buffers
    schedule = Schedule(IRModule({"main": function}))
    changed = False
    for block in schedule.get_child_blocks(schedule.get_sblock("root", "main")):
        for index, region in enumerate(schedule.get(block).writes):
            if region.source.scope() == "local":
                schedule.set_scope(block, index, "global")
                changed = True
    return schedule.mod["main"] if changed else function
