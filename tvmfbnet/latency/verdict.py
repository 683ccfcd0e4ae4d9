"""Does a net meet its latency target? The one rule, which search, run, compile, bench and report all use.

A net is timed in *measurement passes*: separate sessions with other work in between, each giving the median of its
repeats. Repeats of one pass share what disturbs the device at that moment, so the pass is the unit of all statistics.
The measured latency is the median of the passes' medians. Its interval is the distribution-free interval of a median:
of K ordered passes the r-th lowest and the r-th highest, with the largest r for which

    2 P(B < r) <= 5 %,   B binomial with K trials of probability 1/2

(J.-Y. Le Boudec, *Performance Evaluation of Computer and Communication Systems*, theorem 2.1; recommended for computers
by Hoefler and Belli, *Scientific Benchmarking of Parallel Computing Systems*, SC 2015). It does not assume normal
noise: latencies are skewed, as background load only ever adds. At least six passes are needed. Passes within a minute
do not see slower drift, so the interval is never narrower than :data:`FLOOR` on either side (a type B uncertainty in
the terms of the GUM, JCGM 100:2008).

Background load on the device's processors slows every repeat alike, and the passes agree on a latency that is not the
net's. Single runs, short against a scheduler's time slices, mostly escape it. So if the median exceeds the fastest
single runs by more than :data:`DISTURBED`, the interval is extended down to them: a net does not miss its target for
background load. The extension never makes a net *met*, which the upper bound alone decides.

A net whose interval lies wholly at or below the target *met* it; wholly above, it *missed* it; anything else is
*undecided*. The latency counts as measured: nothing corrects it, least of all the device's speed factor.

A simulated device has no noise: one pass is exact, and so is the verdict. It is one on a model, is called simulated
wherever it is said, and never counts as measured.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tvmfbnet.advice import bench, tune_more
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.origin import CHOSEN_ON_SIMULATED, MEASURED, NO_DEVICE, SIMULATED, TimedSource, timed_latency
from tvmfbnet.latency.units import Unit, unit_for

CONFIDENCE = 0.95
# Fewer passes have no interval with that confidence: 2 * (1/2)^5 is 6 %.
MIN_PASSES = 6
# Slow drift that passes within a minute cannot show, relative: on a shared machine a net's median moved by as much
# between one ten-second window and the next (docs/results/additivity.md).
FLOOR = 0.03
# Relative excess of the median over the fastest single runs above which the device counts as shared.
DISTURBED = 0.15
# A net whose interval ends this far below the target, relative, leaves room for a slower, more accurate one.
ROOM = 0.05
# Above this noise the advice is about the device, below it about the net.
NOISY = 0.05

MET, MISSED, UNDECIDED = "met", "missed", "undecided"
# Exit codes of commands that end with a verdict.
EXIT_CODES = {MET: 0, MISSED: 3, UNDECIDED: 3}


@dataclass(frozen=True)
class Interval:
    """A measured value with its bounds; latencies in milliseconds, speed factors without a unit."""

    value: float
    low: float
    high: float
    passes: int

    @property
    def noise(self) -> float:
        """The wider half of the interval, relative to the value."""
        return max(self.high - self.value, self.value - self.low) / self.value

    def widened(self, amount: float) -> Interval:
        """The interval extended by ``amount`` on both sides."""
        return Interval(self.value, max(self.low - amount, 0.0), self.high + amount, self.passes)

    def reaching(self, fastest: float | None) -> Interval:
        """The interval extended down to the fastest single runs if they show a shared device (see the module)."""
        if fastest is None or not fastest > 0 or self.value <= (1 + DISTURBED) * fastest:
            return self
        return Interval(self.value, min(self.low, fastest * (1 - FLOOR)), self.high, self.passes)

    @classmethod
    def exact(cls, value: float, passes: int) -> Interval:
        """A latency without noise: a simulated one."""
        return cls(value, value, value, passes)

    def describe(self, unit: Unit | None = None) -> str:
        """A latency and its bounds, for people; an exact one has none."""
        unit = unit or unit_for([self.value])
        bounds = "" if self.low == self.high else f" ({unit.number(self.low)} to {unit.number(self.high)})"
        return f"{unit.text(self.value)}{bounds}"

    def to_dict(self) -> dict[str, float | int]:
        """Bounds of a latency as plain data."""
        return {"low_ms": self.low, "high_ms": self.high, "confidence": CONFIDENCE, "visits": self.passes}


def median_interval(passes_ms: Sequence[float], floor: float = FLOOR) -> Interval:
    """The median over passes and its 95 % interval (see the module).

    Args:
        passes_ms: one value per pass.
        floor: least relative half-width.

    Raises:
        LatencyError: fewer than six passes, or a value that is not a positive number.
    """
    if len(passes_ms) < MIN_PASSES:
        raise LatencyError(f"{len(passes_ms)} measurement pass(es) are too few; at least {MIN_PASSES} are needed")
    if not all(math.isfinite(value) and value > 0 for value in passes_ms):
        raise LatencyError("the device reported a time that is not a positive number; time it again")
    ordered = sorted(passes_ms)
    rank = _rank(len(ordered))
    middle = statistics.median(ordered)
    low, high = min(ordered[rank - 1], middle * (1 - floor)), max(ordered[-rank], middle * (1 + floor))
    return Interval(middle, low, high, len(ordered))


def _rank(count: int) -> int:
    """The largest r with 2 P(B < r) <= 5 % for B ~ Binomial(count, 1/2)."""
    rank, below = 0, 0.0
    while 2 * (below := below + math.comb(count, rank) / 2**count) <= 1 - CONFIDENCE:
        rank += 1
    return rank


@dataclass(frozen=True)
class Verdict:
    """Whether a measured latency, or one that was simulated in its place, meets a target.

    Attributes:
        target_ms: the latency target.
        measured: the latency as measured, or as simulated.
        slowdown: the device's speed factor, if it is certain enough. For advice only: it decides nothing.
        chosen_on_simulated: whether the net was chosen on simulated latencies, which is said beside the verdict.
        source: whether the latency was ``measured`` on a device or ``simulated``.
    """

    target_ms: float
    measured: Interval
    slowdown: float = 1.0
    chosen_on_simulated: bool = False
    source: TimedSource = MEASURED

    @property
    def kind(self) -> Literal["met", "missed", "undecided"]:
        """``met``, ``missed`` or ``undecided``, by the rule of the module."""
        if self.measured.high <= self.target_ms:
            return "met"
        return "missed" if self.measured.low > self.target_ms else "undecided"

    @property
    def phrase(self) -> str:
        """``met``, ``missed by 11.8 %`` or ``undecided (noise 4.2 %)``."""
        if self.kind == MISSED:
            return f"missed by {100 * (self.measured.value / self.target_ms - 1):.1f} %"
        return MET if self.kind == MET else f"undecided (noise {100 * self.measured.noise:.1f} %)"

    @property
    def has_room(self) -> bool:
        """Whether a slower, more accurate net would meet the target as well."""
        return self.measured.high <= (1 - ROOM) * self.target_ms

    @property
    def exit_code(self) -> int:
        """0 if the target is met, else 3."""
        return EXIT_CODES[self.kind]

    def describe(self) -> str:
        """One line for people, raw figures first; a simulated one says that no device took it."""
        unit = unit_for((self.target_ms, self.measured.value))
        told = (
            f"latency target {unit.text(self.target_ms)}: {self.phrase}; {self.source} {self.measured.describe(unit)}"
        )
        if self.source == SIMULATED:
            return f"{told} ({NO_DEVICE})"
        return told + (f"; {CHOSEN_ON_SIMULATED}" if self.chosen_on_simulated else "")

    def advice(self) -> str:
        """What to do about it; empty if the target is met."""
        if self.kind == MET:
            return ""
        if self.slowdown > 1 and self.measured.value / self.slowdown <= self.target_ms:
            return (
                f"the device was {self.slowdown:.2f}x slower than when its table was measured: stop other work on "
                f"it, let it cool, then {self._time_again()}"
            )
        if self.measured.noise > NOISY:
            return (
                f"the device is too noisy ({100 * self.measured.noise:.0f} %) to decide: stop other work on it, let it "
                f"cool, fix its clock if possible, then {self._time_again()}"
            )
        if self.kind == UNDECIDED:
            return (
                "the target lies within the measurement's uncertainty: on a quieter device, "
                f"{self._time_again()}, or search with a slightly lower target"
            )
        more = tune_more()
        if self.chosen_on_simulated and self.source == MEASURED:
            return f"measure the target's latencies{f' with {more}' if more else ''} and search on those"
        return f"search with a lower latency target, or tune longer{f' with {more}' if more else ''}"

    def _time_again(self) -> str:
        again = bench(self.target_ms)
        return f"time the package again{f' with {again}' if again else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what ``result.json`` and ``--json`` carry. A simulated latency is not called ``measured_ms``."""
        return {
            "verdict": self.phrase,
            "verdict_kind": self.kind,
            "latency_target_ms": self.target_ms,
            **timed_latency(self.source, self.measured.value),
            "interval": self.measured.to_dict(),
            "noise": self.measured.noise,
            "advice": self.advice(),
            "chosen_on_simulated": self.chosen_on_simulated,
        }
