"""The candidates that a search which has seen no trial proposes first, of a kernel and of every kernel of a net.

Shared by the benchmarks that look at candidates without tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.template_search import TemplateSearch
from tvmfbnet.autotune.templates import machine_of, shape_of
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.pipeline.tuning import plan_space
from tvmfbnet.space.arch_text import resolve_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import ResolvedTarget, load_target


def first_candidates(
    kernel: Kernel, shape: KernelShape, target: tvm.target.Target, count: int
) -> list[ScheduleCandidate]:
    """A kernel's first candidates, at most ``count``."""
    return list(TemplateSearch(kernel, shape, TrialCostModel(machine_of(target)), [], count, 0).propose())


def net_candidates(
    name: str, space: str, arch: str, count: int
) -> Iterator[tuple[KernelShape, ScheduleCandidate, ResolvedTarget]]:
    """The first candidates of every kernel of a net that a template schedules; ``name`` is the target's."""
    chosen, loaded = resolve_arch(arch, load_space(space))
    with TemporaryDirectory() as folder:
        plan = plan_space(loaded, load_target(name), arch=chosen, folder=Path(folder))
        for task in plan.tasks:
            shape = shape_of(task.kernel.mod)
            if shape is None:
                continue
            for candidate in first_candidates(task.kernel, shape, plan.target.for_tvm(), count):
                yield shape, candidate, plan.target


def arguments_of(mod: Any) -> list[Any]:
    """Arguments for a kernel on this machine: small floats, random integers."""
    draw, tensors = np.random.default_rng(0), []
    for info in ArgInfo.from_prim_func(mod["main"]):
        sizes, dtype = [int(size) for size in info.shape], str(info.dtype)
        values = np.full(sizes, 1e-3, dtype) if dtype == "float32" else draw.integers(0, 100, sizes).astype(dtype)
        tensors.append(tvm.runtime.tensor(values, tvm.cpu()))
    return tensors
