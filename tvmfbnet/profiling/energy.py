"""The energy that one inference takes: what the machine takes while inferences run, less what it takes when idle.

Idle power drifts with temperature and other work, so each round measures it right before its inferences: a pause,
then inferences for as long. The energy is the median of the rounds, the spread their standard deviation.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tvmfbnet.errors import UserError
from tvmfbnet.profiling.energy_sources import EnergySource


@dataclass(frozen=True)
class Energy:
    """The energy of one inference.

    Attributes:
        energy_mj: above idle, median over the rounds.
        spread_mj: standard deviation over the rounds.
        gross_mj: with what the idle machine takes in that time, median over the rounds.
        idle_watts: what the idle machine takes, median over the rounds.
        source: where it was read (:mod:`tvmfbnet.profiling.energy_sources`).
        rounds: how many rounds.
        inferences: in all rounds together.
    """

    energy_mj: float
    spread_mj: float
    gross_mj: float
    idle_watts: float
    source: str
    rounds: int
    inferences: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"{self.energy_mj:.3g} mJ an inference above idle (spread {self.spread_mj:.2g} mJ; {self.gross_mj:.3g} mJ "
            f"with {self.idle_watts:.3g} W idle; {self.source})"
        )


@dataclass(frozen=True)
class _Round:
    above_idle: float
    gross: float
    idle_watts: float
    inferences: int


def energy_per_inference(
    run: Callable[[], int | None],
    source: EnergySource,
    seconds: float = 2.0,
    rounds: int = 6,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Energy:
    """Measures the energy of one inference.

    Args:
        run: one inference, or as many as it returns.
        source: what tells the energy.
        seconds: of a pause, and of the inferences after it.
        rounds: how many times; at least 2.
        clock: the time in seconds.
        pause: waits for a time in seconds.

    Raises:
        UserError: the source does not tell, or not that inferences take more than the idle machine.
    """
    run()
    with source.running() as joules:
        measured = [_round(run, joules, seconds, clock, pause) for _ in range(rounds)]
    energies = [item.above_idle for item in measured]
    median = statistics.median(energies)
    if not median > 0:
        raise UserError(
            f"{source.name} does not tell inferences from an idle machine ({1e3 * median:.3g} mJ an inference): stop "
            "other work, or use a source that is finer"
        )
    return Energy(
        energy_mj=1e3 * median,
        spread_mj=1e3 * statistics.stdev(energies),
        gross_mj=1e3 * statistics.median(item.gross for item in measured),
        idle_watts=statistics.median(item.idle_watts for item in measured),
        source=source.name,
        rounds=rounds,
        inferences=sum(item.inferences for item in measured),
    )


def _round(
    run: Callable[[], int | None],
    joules: Callable[[], float],
    seconds: float,
    clock: Callable[[], float],
    pause: Callable[[float], None],
) -> _Round:
    # A command takes a while to tell: its answer is of the moment at which it is there.
    before, start = joules(), clock()
    pause(seconds)
    between, middle = joules(), clock()
    idle_watts, count = (between - before) / (middle - start), 0
    while not count or clock() - middle < seconds:
        made = run()
        count += 1 if made is None else made
    taken, lasted = joules() - between, clock() - middle
    return _Round((taken - idle_watts * lasted) / count, taken / count, idle_watts, count)
