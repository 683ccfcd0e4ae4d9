"""What tuning a space takes: its distinct parts, and the kernels they share, before anything is spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm.ir import IRModule

from tvmfbnet.autotune.lowering_cache import LoweredParts
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.space.space import BLOCK, NetPart, Space
from tvmfbnet.targets.definition import ResolvedTarget

# Measured on two quiet cores, one building while the other proposes and times.
TRIALS_PER_SECOND = 6.0
# There: compiling and timing one of the nets that parts are timed in, or one part alone.
_SECONDS_PER_NET, _SECONDS_PER_PART = 4.5, 1.5


@dataclass(frozen=True)
class TuningTask:
    """One kernel to tune, and in how many (layer, block) cells of the space it is used."""

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
        """How many of the parts are blocks."""
        return sum(1 for part in self.parts if part.part == BLOCK)

    def estimated_seconds(self, trials: int, trials_per_second: float, slowness: float, share: float = 1.0) -> float:
        """Time that ``trials`` trials and the measurements will take.

        Args:
            trials: still to be done.
            trials_per_second: to be expected (:mod:`tvmfbnet.autotune.estimate`).
            slowness: of compiling, 1 on the host that it was measured on.
            share: of the blocks that are timed, 0 to 1.
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
    """Exports and lowers ``parts`` and gathers their kernels, each once.

    Args:
        space: where the parts come from; decides how often each is used.
        target: what its kernels are compiled for.
        parts: what will be measured.
        kept: folder of parts that earlier runs lowered; None for none.
        keeps: whether what is lowered now is kept there.
    """
    uses = Counter(cell for layer in space.layers for block in layer.blocks if (cell := layer.part(block)) is not None)
    lowered = LoweredParts(parts, target, kept, keeps)
    kernels: dict[str, Kernel] = {}
    cells: Counter[str] = Counter()
    for part, some in lowered.kernels.items():
        for kernel in some:
            kernels.setdefault(kernel.key, kernel)
            cells[kernel.key] += kernel.count * max(uses[part], 1)
    tasks = tuple(TuningTask(kernel, cells[key]) for key, kernel in kernels.items())
    return Plan(space, target, lowered, lowered.kernels, tasks)
