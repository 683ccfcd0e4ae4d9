"""The tuning plan of a space: its distinct parts and the kernels they share, before any trial is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tvm.ir import IRModule

from tvmfbnet.autotune.gpu_space import has_template
from tvmfbnet.autotune.lowering_cache import LoweredParts
from tvmfbnet.autotune.templates import shape_of
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.space.space import BLOCK, NetPart, Space
from tvmfbnet.targets.definition import ResolvedTarget

# Older than building on all cores, with which two quiet cores reached 9.8: a forecast on the safe side.
TRIALS_PER_SECOND = 6.0
# On the same host: compiling and timing one of the nets that parts are timed in, or a single part.
_SECONDS_PER_NET, _SECONDS_PER_PART = 4.5, 1.5


@dataclass(frozen=True)
class TuningTask:
    """One kernel to tune, and the number of (layer, block) cells of the space that use it."""

    kernel: Kernel
    cells: int


@dataclass(frozen=True)
class Plan:
    """The parts of a space lowered for a target, the kernels of each, and the distinct tuning tasks among them."""

    space: Space
    target: ResolvedTarget
    parts: Mapping[NetPart, IRModule]
    kernels: dict[NetPart, list[Kernel]]
    tasks: tuple[TuningTask, ...]

    @property
    def blocks(self) -> int:
        """Number of parts that are blocks."""
        return sum(1 for part in self.parts if part.part == BLOCK)

    @cached_property
    def gpu_templated(self) -> frozenset[str]:
        """Keys of the tasks that a GPU template schedules; empty on CPUs. Older logs have other trials of them."""
        if self.target.on_cpu:
            return frozenset()
        shapes = {task.kernel.key: shape_of(task.kernel.mod) for task in self.tasks}
        return frozenset(key for key, shape in shapes.items() if shape is not None and has_template(shape))

    def estimated_seconds(self, trials: int, trials_per_second: float, slowness: float, share: float = 1.0) -> float:
        """Estimated time of ``trials`` trials and the measurements.

        Args:
            trials: remaining trials.
            trials_per_second: expected rate (:mod:`tvmfbnet.autotune.estimate`).
            slowness: of compiling, relative to the reference host.
            share: of the blocks to time, 0 to 1.
        """
        if self.target.on_cpu:
            nets = self.target.timing.chain_rounds * max(len(layer.blocks) for layer in self.space.layers)
            measuring = _SECONDS_PER_NET * share * nets
        else:
            measuring = _SECONDS_PER_PART * share * len(self.parts)
        return trials / trials_per_second + slowness * measuring


def make_plan(
    space: Space, target: ResolvedTarget, parts: Sequence[NetPart], kept: Path | None = None, keeps: bool = True
) -> Plan:
    """Exports and lowers ``parts``, and collects their distinct kernels.

    Args:
        space: of the parts; determines how often each is used.
        target: to compile for.
        parts: to measure.
        kept: cache folder of lowered parts; None for no cache.
        keeps: whether to save newly lowered parts there.
    """
    uses = Counter(cell for layer in space.layers for block in layer.blocks if (cell := layer.part(block)) is not None)
    lowered = LoweredParts(parts, target, kept, keeps)
    kernels: dict[str, Kernel] = {}
    cells: Counter[str] = Counter()
    for part, part_kernels in lowered.kernels.items():
        for kernel in part_kernels:
            kernels.setdefault(kernel.key, kernel)
            cells[kernel.key] += kernel.count * max(uses[part], 1)
    tasks = tuple(TuningTask(kernel, cells[key]) for key, kernel in kernels.items())
    return Plan(space, target, lowered, lowered.kernels, tasks)
