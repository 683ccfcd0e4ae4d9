"""The device's speed factor: its drift since the blocks of its latency table were timed.

A shared or warm device changes speed within minutes, for all kernels alike. Re-timing blocks of the table shows by how
much: the sum of their latencies now, over the table's sum. 1.08 is a device that became 8 % slower. The factor compares
nets with the table; it never replaces a measured latency, and nothing is decided on an uncertain factor.

Its interval is that of :func:`tvmfbnet.latency.verdict.median_interval` over passes, widened by 1.96 standard errors of
a ratio of sums over the parts (W. G. Cochran, *Sampling Techniques*, 3rd ed., eq. 6.13): parts that disagree show that
the kernels do not share one factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.latency.verdict import MIN_PASSES, Interval, median_interval

# Beyond these bounds it is not drift: something else differs, such as the kernels.
BOUNDS = (0.5, 2.0)
LEAST_PARTS = 4
# The factor is of the moment, so slow drift adds no uncertainty; the clock's remains.
_FLOOR = 0.01
# Largest relative half-width of a factor that is still used for decisions.
LARGEST_NOISE = 0.05


@dataclass(frozen=True)
class SpeedFactor:
    """The device's speed relative to the table, with its evidence.

    Attributes:
        interval: the factor and its bounds; above 1 the device is slower now.
        parts: number of the table's measured parts that were timed again.
        parts_spread: standard deviation of the parts' own factors, weighted by their latency, relative to the factor.
        canary: lowest and highest latency of the canary kernel meanwhile, relative to its first.
        steady: whether the canary kept its speed in every pass.
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
        """Why the factor is too uncertain to use; empty if it is not."""
        low, high = BOUNDS
        if self.parts < LEAST_PARTS:
            return f"only {self.parts} measured part(s) were timed again"
        if self.interval.noise > LARGEST_NOISE:
            return f"it is uncertain by {self.interval.noise:.1%}"
        if not low <= self.value <= high:
            return f"{self.value:.2f} is beyond what drift can be ({low:g} to {high:g}); tune and measure again"
        return ""

    @property
    def known(self) -> bool:
        """Whether the factor is certain enough to decide on."""
        return not self.doubt

    def describe(self) -> str:
        """One phrase for people, with its evidence."""
        interval, (low, high) = self.interval, self.canary
        text = (
            f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f}; {self.parts} parts that differ by "
            f"{self.parts_spread:.1%}, {interval.passes} passes, canary {low:.2f} to {high:.2f})"
        )
        return text + (f", not used: {self.doubt}" if self.doubt else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, evidence included."""
        return {
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "visits": self.interval.passes,
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
        now_ms: for each pass, the latency of each part.
        then_ms: the table's latency of each part.
        canary: the canary's ratios meanwhile.
        steady: whether the canary kept its speed.

    Returns:
        The factor; None if there are too few passes, or no parts.
    """
    total = sum(then_ms)
    if len(now_ms) < MIN_PASSES or total <= 0:
        return None
    by_pass = [sum(part_ms) / total for part_ms in now_ms]
    if not all(math.isfinite(value) and value > 0 for value in by_pass):
        return None
    interval = median_interval(by_pass, _FLOOR)
    count = len(then_ms)
    means = [sum(part_ms[index] for part_ms in now_ms) / len(now_ms) for index in range(count)]
    ratio = sum(means) / total
    residuals = [now - ratio * then for now, then in zip(means, then_ms, strict=True)]
    error = math.sqrt(count / max(count - 1, 1) * sum(value**2 for value in residuals)) / total
    weighted = sum(then * (now / then / ratio - 1) ** 2 for now, then in zip(means, then_ms, strict=True) if then > 0)
    extremes = (min(canary, default=1.0), max(canary, default=1.0))
    return SpeedFactor(interval.widened(1.96 * error), count, math.sqrt(weighted / total), extremes, steady)
