"""How fast the device is now, against when the blocks of its latency table were timed: its speed factor.

A shared or warm device changes its speed within minutes, for all kernels alike. Blocks of the table that are timed
again meanwhile say by how much: the sum of what they take now over the table's sum. 1.08 is a device that became 8 %
slower. The factor compares nets with the table; it never stands in for a measured latency, and where it is not known
well nothing is decided on it.

Its interval is that of :func:`tvmfbnet.latency.verdict.median_interval` over visits, widened by 1.96 standard errors of
a ratio of sums over the parts (W. G. Cochran, *Sampling Techniques*, 3rd ed., eq. 6.13): parts that do not agree say
that this is no speed that all kernels share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.latency.verdict import LEAST_VISITS, Interval, median_interval

# Beyond these bounds it is no drift: something else differs, such as the kernels.
BOUNDS = (0.5, 2.0)
LEAST_PARTS = 4
# The factor is of the moment, so slow drift is no uncertainty of it; what is left is the clock's.
_FLOOR = 0.01
# Largest relative half-width with which anything is decided on a factor.
LARGEST_NOISE = 0.05


@dataclass(frozen=True)
class SpeedFactor:
    """The device's speed against the table's, and on what it rests.

    Attributes:
        interval: the factor and its bounds; above 1 the device is slower now.
        parts: how many of the table's measured parts were timed again.
        parts_spread: standard deviation of the parts' own factors, weighted by their latency, relative to the factor.
        canary: lowest and highest ratio of the canary kernel to its first time meanwhile.
        steady: whether the canary kept its speed in every visit.
    """

    interval: Interval
    parts: int
    parts_spread: float
    canary: tuple[float, float]
    steady: bool

    @property
    def value(self) -> float:
        """The factor."""
        return self.interval.value

    @property
    def doubt(self) -> str:
        """Why it is not known well; empty where it is."""
        low, high = BOUNDS
        if self.parts < LEAST_PARTS:
            return f"only {self.parts} measured part(s) tell it"
        if self.interval.noise > LARGEST_NOISE:
            return f"it is uncertain by {self.interval.noise:.1%}"
        if not low <= self.value <= high:
            return f"{self.value:.2f} is beyond what drift can be ({low:g} to {high:g}); tune and measure anew"
        return ""

    @property
    def known(self) -> bool:
        """Whether it is known well enough to decide on."""
        return not self.doubt

    def describe(self) -> str:
        """One phrase for people, with its evidence."""
        found, (low, high) = self.interval, self.canary
        text = (
            f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}; {self.parts} parts that differ by "
            f"{self.parts_spread:.1%}, {found.visits} visits, canary {low:.2f} to {high:.2f})"
        )
        return text + (f", not used: {self.doubt}" if self.doubt else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, evidence included."""
        return {
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "visits": self.interval.visits,
            "parts": self.parts,
            "parts_spread": self.parts_spread,
            "canary": list(self.canary),
            "steady": self.steady,
            "known": self.known,
            "doubt": self.doubt,
            "description": self.describe(),
        }


def speed_factor(
    now_ms: Sequence[Sequence[float]], then_ms: Sequence[float], canary: Sequence[float], steady: bool = True
) -> SpeedFactor | None:
    """The speed factor from parts that were timed again.

    Args:
        now_ms: for each visit, what each part took.
        then_ms: what the table says of each part.
        canary: the canary's ratios meanwhile.
        steady: whether the canary kept its speed.

    Returns:
        None where there are too few visits, or no parts, to say anything.
    """
    total = sum(then_ms)
    if len(now_ms) < LEAST_VISITS or total <= 0:
        return None
    by_visit = [sum(visit) / total for visit in now_ms]
    if not all(math.isfinite(value) and value > 0 for value in by_visit):
        return None
    found = median_interval(by_visit, _FLOOR)
    count = len(then_ms)
    means = [sum(visit[index] for visit in now_ms) / len(now_ms) for index in range(count)]
    ratio = sum(means) / total
    left = [now - ratio * then for now, then in zip(means, then_ms, strict=True)]
    error = math.sqrt(count / max(count - 1, 1) * sum(value**2 for value in left)) / total
    weighted = sum(then * (now / then / ratio - 1) ** 2 for now, then in zip(means, then_ms, strict=True) if then > 0)
    seen = (min(canary, default=1.0), max(canary, default=1.0))
    return SpeedFactor(found.widened(1.96 * error), count, math.sqrt(weighted / total), seen, steady)
