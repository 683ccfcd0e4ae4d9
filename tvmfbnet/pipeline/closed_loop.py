"""Closing the loop between predicted and measured latency: the found net is timed, and chosen again if need be.

A latency table adds up parts; a whole net may run faster or slower than their sum (caches, threads, memory). Where the
verdict on a net (:mod:`tvmfbnet.latency.verdict`) is not *met*, the ratio of its latency, as measured, to the table's
corrects the table, and archs are chosen anew from the same theta. The loop aims below the target by the measurement's
noise, as only then a verdict can be *met*. Nothing is trained for this: latency does not depend on weights.

A slower net than the one that was timed is only ever chosen on the evidence of the measured latency, and of the
device's speed factor (:mod:`tvmfbnet.latency.speed`) where that makes the choice more careful: a device that is faster
now than when the table was timed will not stay so. A factor that is not well known stops that choice. Where noise
leaves more open than whether the target is met, nothing is chosen on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import FLOOR, MET, MISSED, UNDECIDED, Interval, Verdict

ROUNDS = 4
# A latency that is known less well than this decides about no other net.
_LARGEST_NOISE = 0.25
# However noisy the device: so far below the target a net is aimed at, at most.
_LARGEST_MARGIN = 0.10


@dataclass(frozen=True)
class Timed:
    """What timing a net gave: its latency as measured (milliseconds), and the device's speed factor where known."""

    measured: Interval
    speed: SpeedFactor | None = None


@dataclass(frozen=True)
class Attempt:
    """One arch that was timed.

    Attributes:
        arch: canonical string.
        table_ms: latency by the table, uncorrected.
        accuracy: with the supernet's weights, between 0 and 1.
        timed: latency of the whole net on the device, and the device's speed factor meanwhile.
        target_ms: the latency target.
    """

    arch: str
    table_ms: float
    accuracy: float
    timed: Timed
    target_ms: float

    @property
    def verdict(self) -> Verdict:
        """On the latency as measured."""
        return Verdict(self.target_ms, self.timed.measured)

    @property
    def measured_ms(self) -> float:
        """Latency as measured."""
        return self.timed.measured.value

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``at_table_speed_ms`` stands beside the measured latency, never in its place."""
        speed = self.timed.speed
        return {
            "arch": self.arch,
            "table_ms": self.table_ms,
            "accuracy": self.accuracy,
            **self.verdict.to_dict(),
            "speed_factor": None if speed is None else speed.to_dict(),
            "at_table_speed_ms": self.measured_ms / speed.value if speed is not None and speed.known else None,
        }


@dataclass(frozen=True)
class Proposal:
    """An arch before it is timed: as :class:`Attempt`."""

    arch: str
    table_ms: float
    accuracy: float


def close_loop(
    first: Proposal,
    target_ms: float,
    measure: Callable[[str], Timed],
    choose: Callable[[float], Proposal],
    rounds: int = ROUNDS,
) -> tuple[Attempt, ...]:
    """Times archs until one meets the target, correcting the table each time by the newest one.

    Args:
        first: what the search found.
        target_ms: the latency target.
        measure: arch to what timing it gave.
        choose: factor on the table's latencies to the arch that is best under it; LatencyError where none meets the
            target.
        rounds: most archs that are timed.

    Returns:
        All attempts, the one to keep last.
    """
    attempts: list[Attempt] = []
    proposal = first
    for _ in range(rounds):
        timed = measure(proposal.arch)
        attempts.append(Attempt(proposal.arch, proposal.table_ms, proposal.accuracy, timed, target_ms))
        factor = next_factor(attempts[-1])
        if factor is None:
            break
        try:
            proposal = choose(factor)
        except LatencyError:  # even the fastest arch is too slow on the device
            break
        if proposal.arch in {attempt.arch for attempt in attempts}:
            break
    best = _best(attempts)
    return (*(attempt for attempt in attempts if attempt is not best), best)


def next_factor(attempt: Attempt) -> float | None:
    """What the table's latencies are multiplied with for the next choice; None where this arch is kept.

    Never below what the latency as measured asks for, so no correction makes a net look faster than it was.
    """
    found, target_ms, speed = attempt.timed.measured, attempt.target_ms, attempt.timed.speed
    aim = 1.0 / (1.0 + min(max(found.noise, FLOOR), _LARGEST_MARGIN))
    ratio = found.value / attempt.table_ms
    if found.noise > _LARGEST_NOISE:  # what is certain at least may be acted on
        return found.low / attempt.table_ms / aim if attempt.verdict.kind == MISSED else None
    if attempt.verdict.kind != MET:
        # Where noise alone leaves it open, a slower net would be no answer.
        return ratio / aim if attempt.table_ms * ratio / aim > target_ms else None
    if not attempt.verdict.has_room:
        return None
    if speed is not None:
        if not speed.known:
            return None
        ratio /= min(1.0, speed.value)
    # There is room only if a slower net than this one would be chosen.
    return ratio / aim if attempt.table_ms * ratio / aim < target_ms else None


def _best(attempts: Sequence[Attempt]) -> Attempt:
    """The most accurate attempt that met the target; where none did, the fastest of those it may still be met by."""
    met = [attempt for attempt in attempts if attempt.verdict.kind == MET]
    if met:
        return max(met, key=lambda attempt: attempt.accuracy)
    open_ones = [attempt for attempt in attempts if attempt.verdict.kind == UNDECIDED]
    return min(open_ones or attempts, key=lambda attempt: attempt.measured_ms)
