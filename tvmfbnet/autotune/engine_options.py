"""What the tuning engine is given and what it reports: budget, options, report."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmfbnet.machine import allowed_cores

if TYPE_CHECKING:
    from tvmfbnet.autotune.estimate import RunningEstimate
    from tvmfbnet.autotune.transfer import TransferSource

# Candidates per round.
BATCH = 8
# Rounds in flight beyond one per device.
ROUNDS_AHEAD = 2
# Fewer trials than these are not worth another builder, which takes as long to start as ten builds.
_TRIALS_OF_A_BUILDER = 24


@dataclass(frozen=True)
class Budget:
    """When tuning ends: after ``trials`` trials (earlier runs included) or ``seconds`` of this run, whichever is first.

    Every task still gets one round: a kernel without a schedule would be very slow.
    """

    trials: int
    seconds: float | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How a plan is tuned.

    Attributes:
        seed: of the search.
        batch: candidates per round.
        executor: runs the builds instead of processes on this machine.
        sources: trials of other targets to transfer from.
        estimate: reports the remaining time after the first rounds.
    """

    seed: int = 0
    batch: int = BATCH
    executor: Executor | None = None
    sources: Sequence[TransferSource] = ()
    estimate: RunningEstimate | None = None


DEFAULTS = EngineOptions()


@dataclass(frozen=True)
class TuningReport:
    """Summary of a tuning run: total trials (earlier runs included), new trials, failures by kind, seconds.

    ``device_faults`` counts broken sessions by device and kind; their trials were repeated.

    ``profile`` breaks this run's seconds down: ``propose`` and ``learn`` (this process), ``build`` (sum over workers),
    ``measure`` (sum over devices), ``wait`` (this process, for builders and devices).
    """

    trials: int
    new_trials: int
    failures: dict[str, int]
    device_faults: dict[str, dict[str, int]]
    untuned: tuple[str, ...]
    seconds: float
    profile: dict[str, float]


def builders_for(trials: int) -> int:
    """How many builder processes to start: one for each core, but none for a few trials.

    Args:
        trials: that are left to build.
    """
    return max(1, min(allowed_cores(), trials // _TRIALS_OF_A_BUILDER))
