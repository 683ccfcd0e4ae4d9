"""Parallel outer loops for untuned CPU kernels, so that they use the target's threads, too."""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm.ir import IRModule
from tvm.s_tir import Schedule
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx import PrimFunc

# Below this many iterations, launching threads costs more than it saves.
_FEW_STEPS = 2**15
# Minimum iterations of a parallel loop per thread, so that they divide about evenly.
_SHARES = 8


def parallel_defaults(mod: IRModule, target: tvm.target.Target) -> IRModule:
    """Parallelises the outer loops of all unscheduled kernels with long loops, if the target has threads.

    Args:
        mod: a module of kernels.
        target: a CPU; ``num-cores`` is its number of threads.
    """
    threads = int(target.attrs.get("num-cores", 1))
    if threads == 1:
        return mod
    changed = {
        name: _parallel(function, threads)
        for name, function in mod.functions_items()
        if isinstance(function, PrimFunc) and not (function.attrs and function.attrs.get("tirx.is_scheduled"))
    }
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for name, function in changed.items():
        result.update_func(name, function)
    return result


def _parallel(function: PrimFunc, threads: int) -> PrimFunc:
    schedule = Schedule(function)
    for block in schedule.get_child_blocks(schedule.get_sblock("root")):
        loops = _spatial_loops(schedule, block)
        if loops and math.prod(_extents(schedule, schedule.get_loops(block))) >= _FEW_STEPS:
            count = next(
                (n for n in range(1, len(loops)) if math.prod(_extents(schedule, loops[:n])) >= _SHARES * threads),
                len(loops),
            )
            try:
                schedule.parallel(schedule.fuse(*loops[:count]))
            except ScheduleError:
                continue  # a sequential loop
    return schedule.mod["main"]


def _spatial_loops(schedule: Schedule, block: Any) -> list[Any]:
    """The outermost loops over output axes; none if loops and axes do not correspond one to one."""
    loops, axes = schedule.get_loops(block), schedule.get(block).iter_vars
    if len(loops) != len(axes):
        return []
    reduced = [number for number, axis in enumerate(axes) if axis.iter_type != tvm.tirx.IterVar.DataPar]
    return list(loops[: min(reduced, default=len(loops))])


def _extents(schedule: Schedule, loops: list[Any]) -> list[int]:
    return [int(schedule.get(loop).extent) for loop in loops]
