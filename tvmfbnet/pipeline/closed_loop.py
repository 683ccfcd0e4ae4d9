"""Closing the loop between predicted and measured latency: time the found net, choose again if needed.

A latency table adds up parts; a whole net may run faster or slower than their sum (caches, threads, memory). Where the
verdict on a net (:mod:`tvmfbnet.latency.verdict`) is not *met*, the ratio of its latency, as measured, to the table's
corrects the table, and archs are chosen again from the same theta. The loop aims below the target by the measurement's
noise, as only then a verdict can be *met*. Nothing is trained for this: latency does not depend on weights.

A slower net than the one that was timed is only ever chosen on the evidence of the measured latency, and of the
device's speed factor (:mod:`tvmfbnet.latency.speed`) where that makes the choice more careful: a device that is faster
now than when the table was timed will not stay so. An uncertain factor stops that choice, and so does noise that
leaves more open than whether the target is met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.errors import ConstraintError
from tvmfbnet.latency.origin import MEASURED, TimedSource
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.units import latency_text
from tvmfbnet.latency.verdict import FLOOR, MET, MISSED, ROOM, UNDECIDED, Interval, Verdict

ROUNDS = 4
# A noisier latency than this does not choose another net.
_LARGEST_NOISE = 0.25
# Upper limit of the safety margin below the target, however noisy the device.
_LARGEST_MARGIN = 0.10


@dataclass(frozen=True)
class Timed:
    """A net's measured or simulated latency (milliseconds), and the device's speed factor if known."""

    measured: Interval
    speed: SpeedFactor | None = None
    source: TimedSource = MEASURED


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
        return Verdict(self.target_ms, self.timed.measured, source=self.timed.source)

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


@dataclass(frozen=True)
class Decision:
    """What follows from an attempt.

    Attributes:
        factor: what the table's latencies are multiplied with for the next choice; None where there is none.
        reason: why, for people.
    """

    factor: float | None
    reason: str


@dataclass(frozen=True)
class Turn:
    """One turn of the loop.

    Attributes:
        number: from 1.
        attempt: the net that was timed.
        predicted_ms: its latency by the table, corrected by what was measured in the turn before.
        decision: what follows.
        ended: why the loop ended here although the decision asked for another net; empty otherwise.
    """

    number: int
    attempt: Attempt
    predicted_ms: float
    decision: Decision
    ended: str = ""

    @property
    def next(self) -> str:
        """The next step, and why."""
        if self.decision.factor is None:
            return f"no other net: {self.decision.reason}"
        if self.ended:
            return f"no other net: {self.decision.reason}, but {self.ended}"
        return f"choose again with the table's latencies times {self.decision.factor:.3g}: {self.decision.reason}"

    def describe(self) -> str:
        """One line for people: predicted, measured, verdict, and what is done next."""
        predicted, measured = latency_text(self.predicted_ms), self.attempt.timed.measured.describe()
        told = f"predicted {predicted}, {self.attempt.timed.source} {measured}, {self.attempt.verdict.phrase}"
        return f"turn {self.number}: {told}; {self.next}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "turn": self.number,
            "predicted_ms": self.predicted_ms,
            **self.attempt.to_dict(),
            "factor": self.decision.factor,
            "next": self.next,
        }


@dataclass(frozen=True)
class ClosedLoop:
    """All turns, in order, and which of their nets is kept and why."""

    turns: tuple[Turn, ...]
    kept: Attempt
    why: str

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The timed attempts, in order."""
        return tuple(turn.attempt for turn in self.turns)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what ``closed_loop.json`` holds."""
        return {
            "target_ms": self.kept.target_ms,
            "arch": self.kept.arch,
            "kept_turn": self.attempts.index(self.kept) + 1,
            "why": self.why,
            "attempts": [turn.to_dict() for turn in self.turns],
        }


def close_loop(
    first: Proposal,
    target_ms: float,
    measure: Callable[[str], Timed],
    choose: Callable[[float], Proposal],
    rounds: int = ROUNDS,
    tell: Callable[[str], None] = lambda line: None,
) -> ClosedLoop:
    """Times archs until one meets the target, correcting the table each time by the newest one.

    Args:
        first: what the search found.
        target_ms: the latency target.
        measure: arch to what timing it gave.
        choose: factor on the table's latencies to the arch that is best under it; ConstraintError where none meets
            the constraints.
        rounds: most archs that are timed.
        tell: called with one line per turn, and at the end with the arch that is kept and why.
    """
    turns: list[Turn] = []
    proposal, factor = first, 1.0
    while True:
        timed = measure(proposal.arch)
        attempt = Attempt(proposal.arch, proposal.table_ms, proposal.accuracy, timed, target_ms)
        decision, ended, other = decide(attempt), "", None
        if decision.factor is not None:
            timed_archs = {attempt.arch, *(turn.attempt.arch for turn in turns)}
            other, ended = _another(choose, decision.factor, timed_archs, len(turns) + 1, rounds)
        turns.append(Turn(len(turns) + 1, attempt, factor * proposal.table_ms, decision, ended))
        tell(turns[-1].describe())
        if other is None or decision.factor is None:
            break
        proposal, factor = other, decision.factor
    kept, why = _best([turn.attempt for turn in turns])
    tell(f"kept {why}: {kept.arch}")
    return ClosedLoop(tuple(turns), kept, why)


def _another(
    choose: Callable[[float], Proposal], factor: float, timed_archs: set[str], done: int, rounds: int
) -> tuple[Proposal | None, str]:
    """The next arch to time, or why there is none."""
    if done >= rounds:
        return None, f"this was the last of {rounds} turns"
    try:
        proposal = choose(factor)
    except ConstraintError as error:  # such as: even the fastest arch is too slow on the device
        return None, f"then {error}"
    if proposal.arch in timed_archs:
        return None, "the choice falls on a net that was timed already"
    return proposal, ""


def next_factor(attempt: Attempt) -> float | None:
    """The factor on the table's latencies for the next choice; None to keep this arch."""
    return decide(attempt).factor


def decide(attempt: Attempt) -> Decision:
    """Whether another net is to be chosen after this one, as if latencies were which multiple of the table's, and why.

    The multiple is never below what the latency as measured asks for, so no correction makes a net look faster than it
    was.
    """
    measured, target_ms, speed = attempt.timed.measured, attempt.target_ms, attempt.timed.speed
    margin = min(max(measured.noise, FLOOR), _LARGEST_MARGIN)
    aim = 1.0 / (1.0 + margin)
    ratio = measured.value / attempt.table_ms
    if measured.noise > _LARGEST_NOISE:  # the interval's lower bound is still evidence
        noisy = f"the measurement's noise is {measured.noise:.0%}"
        if attempt.verdict.kind != MISSED:
            return Decision(None, f"{noisy}, too much to choose a net by")
        return Decision(measured.low / attempt.table_ms / aim, f"{noisy}, but even its lower bound misses the target")
    if attempt.verdict.kind != MET:
        # Where noise alone leaves it open, a slower net would be no answer.
        if attempt.table_ms * ratio / aim <= target_ms:
            return Decision(
                None, "only the measurement's noise leaves the target open, and a slower net would not help"
            )
        reason = (
            f"the net took {ratio:.3g} times what the table says; the aim is {margin:.1%} below the target, for noise"
        )
        return Decision(ratio / aim, reason)
    if not attempt.verdict.has_room:
        return Decision(None, f"it met the target, with less than {ROOM:.0%} to spare")
    room = 1 - measured.high / target_ms
    if speed is not None:
        if not speed.known:
            return Decision(None, "it met the target; the headroom may be the device's changing speed")
        ratio /= min(1.0, speed.value)
    # There is room only if a slower net than this one would be chosen.
    if attempt.table_ms * ratio / aim >= target_ms:
        return Decision(None, "it met the target; noise and the device's speed use up the headroom")
    return Decision(ratio / aim, f"it met the target with {room:.0%} to spare, where a more accurate net may fit")


def _best(attempts: Sequence[Attempt]) -> tuple[Attempt, str]:
    """The most accurate attempt that met the target; where none did, the fastest of those it may still be met by."""
    met = [attempt for attempt in attempts if attempt.verdict.kind == MET]
    open_ones = [attempt for attempt in attempts if attempt.verdict.kind == UNDECIDED]
    if met:
        best = max(met, key=lambda attempt: attempt.accuracy)
        why = "the only one that met the target" if len(met) == 1 else f"the most accurate of {len(met)} that met it"
    else:
        best = min(open_ones or attempts, key=lambda attempt: attempt.measured_ms)
        why = "no net met the target; "
        if open_ones:
            why += "the only one" if len(open_ones) == 1 else f"the fastest of {len(open_ones)}"
            why += " for which noise leaves it open"
        else:
            why += f"the fastest of {len(attempts)}"
    if len(attempts) == 1:
        why = "no other one was timed"
    return best, f"the net of turn {attempts.index(best) + 1}: {why}"
