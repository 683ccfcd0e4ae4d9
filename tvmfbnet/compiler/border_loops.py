"""Loops over an image are cut at its borders, where a kernel's padding is never stored, and at tiles that end early.

A kernel that reads padded input where it is tests each pixel for the border of the image. Only the first and the last
tiles of a loop can be there: cut into a loop for each border and one for the interior, the interior tests nothing, and
in the borders LLVM and TVM drop the products with zeros. That saves the padded copy of the input, and with it the
transfers of an image that fits no near cache.

Where tiles do not divide an image or its channels, the last one is cut off in the same way, and no other one tests for
the end.

TVM has the pass, but by default applies it to loops of variable length only, and after loop variables have been
replaced, so that it no longer finds those that a schedule marks. Here it runs before.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx, transform
from tvm.ir import IRModule
from tvm.s_tir import SBlockRealize, Schedule

_MARK = "pragma_loop_partition_hint"
_OPTIONS = {"s_tir.LoopPartition": {"partition_const_loop": True}}


def mark_loop(schedule: Schedule, loop: Any) -> None:
    """Marks a loop over tiles to be cut where the tests in it change."""
    schedule.annotate(loop, _MARK, 1)


def cut_borders(mod: IRModule) -> IRModule:
    """Scheduled kernels with their marked loops cut, which lowers them; other functions as they are."""
    marked = {name: function for name, function in mod.functions_items() if _is_marked(function)}
    if not marked:
        return mod
    with transform.PassContext(config=_OPTIONS):
        cut = transform.Sequential(_lowering_passes())(IRModule(marked))
    return IRModule({**dict(mod.functions_items()), **dict(cut.functions_items())}, attrs=mod.attrs)


def _lowering_passes() -> list[transform.Pass]:
    # The first part of TVM's default pipeline for CPUs, up to loops without blocks.
    passes = s_tir.transform
    return [
        passes.CanonicalizeLoop(),
        passes.LowerInitBlock(),
        passes.PlanAndUpdateBufferAllocationLocation(),
        passes.ConvertBlocksToOpaque(),
        passes.CompactBufferAllocation(),
        passes.LowerMatchBuffer(),
        passes.StmtSimplify(),
        passes.LowerOpaqueBlock(),
        passes.LoopPartition(),
    ]


def _is_marked(function: Any) -> bool:
    if not isinstance(function, tirx.PrimFunc) or not isinstance(function.body, SBlockRealize):
        return False
    schedule = Schedule(IRModule({"main": function}))
    (last,) = schedule.get_output_blocks(schedule.get_sblock("root", "main"))[:1]
    return any(_MARK in schedule.get(loop).annotations for loop in schedule.get_loops(last))
