"""The unit in which latencies are shown to people. In files, in JSON and in code every latency is in milliseconds.

A table or a figure has one unit: microseconds if most of its latencies are below a millisecond.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit that latencies are shown in.

    Attributes:
        name: as written after a number.
        per_ms: how many make a millisecond.
    """

    name: str
    per_ms: float

    def number(self, latency_ms: float, digits: int = 4) -> str:
        """A latency in this unit, without the unit's name: ``digits`` significant digits, never with an exponent."""
        value = latency_ms * self.per_ms
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        text = f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text

    def text(self, latency_ms: float, digits: int = 4) -> str:
        """The same with the unit's name."""
        return f"{self.number(latency_ms, digits)} {self.name}"


MILLISECONDS, MICROSECONDS = Unit("ms", 1.0), Unit("µs", 1000.0)


def unit_for(latencies_ms: Iterable[float | None]) -> Unit:
    """The unit for latencies (milliseconds) that are shown side by side; None stands for an unknown one."""
    sizes = [abs(latency) for latency in latencies_ms if latency]
    return MICROSECONDS if sizes and statistics.median(sizes) < 1.0 else MILLISECONDS


def latency_text(latency_ms: float) -> str:
    """A single latency, with its unit."""
    return unit_for([latency_ms]).text(latency_ms)
