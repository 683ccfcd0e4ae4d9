"""Closing the loop between predicted and measured latency: the found net is timed, and chosen again if it missed.

A latency table adds up parts; a whole net may run faster or slower than their sum (caches, threads, memory). When it
misses the target for that, the ratio of measured to predicted latency corrects the table, and archs are chosen anew
from the same theta under the corrected latencies. Nothing is trained for this: latency does not depend on weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvmfbnet.errors import LatencyError

# How far from the target a measured latency may lie: the precision that a target is promised to be met with.
TOLERANCE = 0.05
ROUNDS = 4


@dataclass(frozen=True)
class Attempt:
    """One arch that was timed.

    Attributes:
        arch: canonical string.
        table_ms: latency by the table, uncorrected.
        measured_ms: latency of the whole net on the device.
        accuracy: with the supernet's weights, between 0 and 1.
    """

    arch: str
    table_ms: float
    measured_ms: float
    accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Proposal:
    """An arch before it is timed: as :class:`Attempt`."""

    arch: str
    table_ms: float
    accuracy: float


def close_loop(
    first: Proposal,
    target_ms: float,
    measure: Callable[[str], float],
    choose: Callable[[float], Proposal],
    rounds: int = ROUNDS,
) -> tuple[Attempt, ...]:
    """Times archs until one meets the target, correcting the table each time by the newest miss.

    Args:
        first: what the search found.
        target_ms: the latency target.
        measure: arch to measured latency, milliseconds.
        choose: factor on the table's latencies to the arch that is best under it; LatencyError where none meets the
            target.
        rounds: most archs that are timed.

    Returns:
        All attempts, the one to keep last.
    """
    attempts: list[Attempt] = []
    proposal = first
    for _ in range(rounds):
        measured = measure(proposal.arch)
        attempts.append(Attempt(proposal.arch, proposal.table_ms, measured, proposal.accuracy))
        if abs(measured / target_ms - 1) <= TOLERANCE:
            return tuple(attempts)
        try:
            proposal = choose(measured / proposal.table_ms)
        except LatencyError:  # even the fastest arch is too slow on the device
            break
        if proposal.arch in {attempt.arch for attempt in attempts}:
            break
    best = _best(attempts, target_ms)
    return (*(attempt for attempt in attempts if attempt is not best), best)


def _best(attempts: Sequence[Attempt], target_ms: float) -> Attempt:
    """The most accurate attempt that is fast enough; where none is, the fastest."""
    fitting = [attempt for attempt in attempts if attempt.measured_ms <= (1 + TOLERANCE) * target_ms]
    return max(fitting, key=lambda a: a.accuracy) if fitting else min(attempts, key=lambda a: a.measured_ms)
