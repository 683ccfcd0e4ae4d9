"""Timing a whole net in rounds of measurement passes, until the verdict on its latency target is clear.

The number of rounds is limited. On request the device's speed factor is measured in turn with the net. Every round adds
its passes to the earlier ones: no measurement is discarded for its outcome.
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
from tvmfbnet.latency.origin import MEASURED, SIMULATED, TimedSource
from tvmfbnet.latency.speed import SpeedFactor
from tvmfbnet.latency.verdict import FLOOR, MISSED, UNDECIDED, Interval, Verdict, median_interval
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.speed_probe import SpeedProbe
from tvmfbnet.progress import progress, say, step
from tvmfbnet.targets.definition import ResolvedTarget

# Passes per round. With nine, the interval leaves out the slowest and the fastest.
PASSES = 9
# Rounds, at most, before the verdict stays undecided; the pause before each is longer than the last.
ROUNDS = 3
_COOLDOWN_SECONDS = 3.0


@dataclass(frozen=True)
class NetLatency:
    """A net's latency as measured, or as simulated, and the conditions of the measurement.

    Attributes:
        passes: the repeats of each pass, and how steady the device was.
        speed: the device's speed factor at that time; None if it was not measured.
        facts: what the device reported about itself.
        fastest_ms: the fastest single run; None if none was timed.
        source: whether a device took it (``measured``) or a model (``simulated``).
        time: end of the measurement, ISO 8601, UTC.
    """

    passes: tuple[HonestTiming, ...]
    speed: SpeedFactor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    fastest_ms: float | None = None
    source: TimedSource = MEASURED
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def whole(self) -> HonestTiming:
        """All passes, pooled."""
        return pooled(self.passes)

    @property
    def interval(self) -> Interval:
        """The latency and its interval, milliseconds; a simulated one is exact."""
        if self.source == SIMULATED:
            return Interval.exact(statistics.median(self._medians_ms), len(self.passes))
        return median_interval(self._medians_ms).reaching(self.fastest_ms)

    @property
    def _medians_ms(self) -> list[float]:
        return [statistics.median(timing.sample.repeats_ms) for timing in self.passes]

    @property
    def spread_ms(self) -> float:
        """Half the distance between the 10th and the 90th percentile of all repeats."""
        figures = summarise(self.whole.sample.repeats_ms)
        return (float(figures["p90_ms"]) - float(figures["p10_ms"])) / 2

    def verdict(self, target_ms: float) -> Verdict:
        """Whether it meets a latency target."""
        slowdown = self.speed.value if self.speed is not None and self.speed.known else 1.0
        return Verdict(target_ms, self.interval, slowdown, source=self.source)

    def to_dict(self, target: ResolvedTarget) -> dict[str, Any]:
        """Latency and conditions as plain data."""
        interval, whole = self.interval, self.whole
        return {
            "latency_ms": interval.value,
            "source": self.source,
            "interval": interval.to_dict(),
            "noise": interval.noise,
            "fastest_ms": self.fastest_ms,
            "spread_ms": self.spread_ms,
            "visits_ms": self._medians_ms,
            "repeats": len(whole.sample.repeats_ms),
            "outliers": whole.sample.outliers,
            "min_repeat_ms": target.timing.min_repeat_ms,
            "steady": whole.steady,
            "canary_ratio": None if self.source == SIMULATED else whole.canary_ratio,
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
    """Times a library's ``main``, with further rounds after a cooldown while the decision on it is unclear.

    On a simulated device one pass is exact.

    Args:
        library: a compiled net.
        shape: of its input.
        timer: of the device.
        target_ms: the latency target; without one a single round suffices.
        probe: measures the device's speed factor.
        choosing: the result may lead to another net, so if the target leaves room the speed factor must be certain.
        between: called after each pass, to time something else in turn.
        sleep: waits; replaced in tests.

    Raises:
        DeviceError: the device went away and did not come back.
    """
    if timer.target.is_simulated:
        with step("simulating the net"):
            return NetLatency((timer.steadily(library, shape),), None, timer.fingerprint, source=timer.source)
    passes: list[HonestTiming] = []
    fastest: float | None = None
    for round_number in range(1, ROUNDS + 1):
        with progress("timing the net", PASSES) as reporter:
            for _ in range(PASSES):
                if probe is not None:
                    probe.run_pass(timer)
                passes.append(timer.steadily(library, shape))
                between()
                reporter.advance()
        factor = None if probe is None else probe.factor
        net = NetLatency(tuple(passes), factor, timer.fingerprint, source=timer.source)
        if target_ms is not None and net.verdict(target_ms).kind == MISSED:
            singles = timer.single_runs(library, shape)  # was it the net, or other load on the device?
            fastest = min(fastest or math.inf, *singles)
        net = replace(net, fastest_ms=fastest)
        doubt = _unclear(net, target_ms, choosing)
        if not doubt or round_number == ROUNDS:
            break
        pause = round_number * max(timer.target.timing.cooldown_seconds, _COOLDOWN_SECONDS)
        say(f"note: {doubt}; measuring again after {pause:g} s")
        sleep(pause)
    return net


def _unclear(net: NetLatency, target_ms: float | None, choosing: bool) -> str:
    """Why another round is worth its time; empty if it is not."""
    if target_ms is None:
        return ""
    verdict = net.verdict(target_ms)
    if verdict.kind == UNDECIDED and verdict.measured.noise > FLOOR * (1 + 1e-6):  # more passes cannot lower it
        return verdict.describe()
    if choosing and verdict.has_room and net.speed is not None and not net.speed.known:
        return f"the device's speed factor is too uncertain ({net.speed.doubt})"
    return ""
