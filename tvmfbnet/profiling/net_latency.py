"""Timing a whole net visit by visit, until the verdict on its latency target is clear or patience is at its end.

The device's speed factor is learnt in turn with it where that is asked for. Every look adds visits to those before it:
nothing that was measured is thrown away because it was not liked.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tvmfbnet.latency.measurement import summarise
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import FLOOR, MISSED, UNDECIDED, Interval, Verdict, median_interval
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.speed_probe import SpeedProbe
from tvmfbnet.progress import progress, say
from tvmfbnet.targets.definition import ResolvedTarget

# With nine visits the interval leaves out the slowest and the fastest one.
VISITS = 9
# So often a net is looked at before the verdict stays undecided, later each time.
LOOKS = 3
_COOLDOWN_SECONDS = 3.0


@dataclass(frozen=True)
class NetLatency:
    """A net's latency as measured, and under which conditions.

    Attributes:
        visits: the repeats of each visit, and what is known about the device meanwhile.
        speed: the device's speed factor meanwhile, where it was asked for and can be told.
        facts: what the device told about itself.
        fastest_ms: the fastest single runs; None where nothing asked for them.
        time: when it was finished, ISO 8601, UTC.
    """

    visits: tuple[HonestTiming, ...]
    speed: SpeedFactor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    fastest_ms: float | None = None
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def whole(self) -> HonestTiming:
        """All visits as one."""
        return pooled(self.visits)

    @property
    def interval(self) -> Interval:
        """The latency and its interval, milliseconds."""
        found = median_interval([statistics.median(visit.sample.repeats_ms) for visit in self.visits])
        return found.reaching(self.fastest_ms)

    @property
    def spread_ms(self) -> float:
        """Half the distance of the 10th to the 90th percentile of all repeats."""
        figures = summarise(self.whole.sample.repeats_ms)
        return (float(figures["p90_ms"]) - float(figures["p10_ms"])) / 2

    def verdict(self, target_ms: float) -> Verdict:
        """Whether it meets a latency target."""
        known = self.speed is not None and self.speed.known
        return Verdict(target_ms, self.interval, self.speed.value if self.speed is not None and known else 1.0)

    def to_dict(self, target: ResolvedTarget) -> dict[str, Any]:
        """Latency and conditions as plain data."""
        found, whole = self.interval, self.whole
        return {
            "latency_ms": found.value,
            "interval": found.to_dict(),
            "noise": found.noise,
            "fastest_ms": self.fastest_ms,
            "spread_ms": self.spread_ms,
            "visits_ms": [statistics.median(visit.sample.repeats_ms) for visit in self.visits],
            "repeats": len(whole.sample.repeats_ms),
            "outliers": whole.sample.outliers,
            "min_repeat_ms": target.timing.min_repeat_ms,
            "steady": whole.steady,
            "canary_ratio": whole.canary_ratio,
            "threads": target.threads,
            "cores": target.cores,
            "speed_factor": None if self.speed is None else self.speed.to_dict(),
            "device": self.facts,
            "time": self.time,
        }


def measure_latency(
    library: Path,
    shape: tuple[int, ...],
    timer: DeviceTimer,
    target_ms: float | None = None,
    probe: SpeedProbe | None = None,
    choosing: bool = False,
    between: Callable[[], object] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> NetLatency:
    """Times a library's ``main``; again, after a cooldown, while what is to be decided on it is not clear.

    Args:
        library: a compiled net.
        shape: of its input.
        timer: of the device.
        target_ms: the latency target; without one a single look is enough.
        probe: tells the device's speed factor.
        choosing: another net may be chosen on it, so the speed factor must be known well where there is room for one.
        between: is called after each visit, to time something else in turn.
        sleep: how to wait; tests count.

    Raises:
        DeviceError: the device went away and did not come back.
    """
    visits: list[HonestTiming] = []
    fastest: float | None = None
    for look in range(1, LOOKS + 1):
        with progress("timing the net", VISITS) as reporter:
            for _ in range(VISITS):
                if probe is not None:
                    probe.visit(timer)
                visits.append(timer.steadily(library, shape))
                between()
                reporter.advance()
        found = NetLatency(tuple(visits), None if probe is None else probe.factor, timer.fingerprint)
        if target_ms is not None and found.verdict(target_ms).kind == MISSED:
            singles = timer.single_runs(library, shape)  # was it the net, or what others did meanwhile?
            fastest = min(fastest or math.inf, *singles)
        found = replace(found, fastest_ms=fastest)
        doubt = _unclear(found, target_ms, choosing)
        if not doubt or look == LOOKS:
            break
        pause = look * max(timer.target.timing.cooldown_seconds, _COOLDOWN_SECONDS)
        say(f"note: {doubt}; measuring again after {pause:g} s")
        sleep(pause)
    return found


def _unclear(found: NetLatency, target_ms: float | None, choosing: bool) -> str:
    """Why another look is worth its time; empty where it is not."""
    if target_ms is None:
        return ""
    verdict = found.verdict(target_ms)
    if verdict.kind == UNDECIDED and verdict.measured.noise > FLOOR * (1 + 1e-6):  # no more visits get below that
        return verdict.describe()
    if choosing and verdict.has_room and found.speed is not None and not found.speed.known:
        return f"the device's speed factor is not known well ({found.speed.doubt})"
    return ""
