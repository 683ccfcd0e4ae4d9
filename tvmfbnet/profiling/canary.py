"""Honest timing: drift detection by a canary kernel, and outlier rejection that is counted.

A phone that heats up throttles, and whatever is timed then looks slow. So one fixed kernel, the canary, is timed before
and after each measurement. If either has drifted beyond the limit, the device cools down and the measurement is
repeated; if the speed never recovers, the measurement is marked as unsteady, not mixed in silently.

Both are compared with the device's *reference*, its fastest canary so far. Noise only ever slows a kernel down, so a
slow first canary is soon replaced, and a slow spell never becomes the reference.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvmfbnet.dtypes import bytes_of, random_tensor
from tvmfbnet.errors import DeviceError
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.session import Repeats, Session, impossible_time
from tvmfbnet.targets.definition import ResolvedTarget

# Size of the canary, a vector times a matrix: small enough for every cache. It computes in float32 on every target: it
# compares a device with itself, so it must be the same work whatever is timed.
CANARY_SIZE = 256
# Bytes of the widest vector registers that TVM's kernels use (AVX-512); narrower machines use several.
_WIDEST_BYTES = 64
_CANARY_REPEATS = Repeats(repeats=5, min_repeat_ms=2, warmup=1)
# A sample more than this many median absolute deviations above the median is an outlier (3.5 is usual; preempted
# samples lie far beyond, and the natural tail of the distribution must stay).
_OUTLIER_DEVIATIONS = 6.0
# Cooldowns before a measurement is marked as unsteady, in multiples of the first.
_COOLDOWNS = (1.0, 2.0, 4.0)
_FIRST_COOLDOWN_SECONDS = 2.0
# Facts that a measurement itself changes, hence read before and after it.
_CHANGING = ("frequency_khz", "temperature_millicelsius")


@dataclass(frozen=True)
class Sample:
    """Repeats in milliseconds without their outliers, and the number of outliers."""

    repeats_ms: tuple[float, ...]
    outliers: int


def drop_outliers(repeats_ms: Sequence[float]) -> Sample:
    """Rejects repeats that background load on the device disturbed; never more than a third of them.

    Only slow repeats are outliers: noise never makes a kernel faster.
    """
    middle = statistics.median(repeats_ms)
    # At least 1 % of the median: on a quiet device the deviation is near 0, and half the repeats would be outliers.
    deviation = max(statistics.median(abs(value - middle) for value in repeats_ms), 0.01 * middle)
    kept = tuple(value for value in repeats_ms if value <= middle + _OUTLIER_DEVIATIONS * deviation)
    if len(kept) < 2 * len(repeats_ms) / 3:
        return Sample(tuple(repeats_ms), 0)  # too many for outliers: the device is that noisy
    return Sample(kept, len(repeats_ms) - len(kept))


@dataclass(frozen=True)
class HonestTiming:
    """One measurement, and how steady the device was.

    Attributes:
        sample: the repeats.
        canary_ratio: the canary's latency relative to the device's reference, before or after the measurement,
            whichever is further from 1; 1 is undisturbed.
        tries: how often it was measured.
        steady: False if the device did not return to its speed.
    """

    sample: Sample
    canary_ratio: float
    tries: int
    steady: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self.sample), "canary_ratio": self.canary_ratio, "tries": self.tries, "steady": self.steady}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> HonestTiming:
        """What :meth:`to_dict` gave; KeyError, TypeError or ValueError on other data."""
        sample = Sample(tuple(float(ms) for ms in value["repeats_ms"]), int(value["outliers"]))
        wrong = impossible_time(sample.repeats_ms)
        if wrong is not None:
            raise ValueError(wrong)
        return cls(sample, float(value["canary_ratio"]), int(value["tries"]), bool(value["steady"]))


def pooled(timings: Sequence[HonestTiming]) -> HonestTiming:
    """Several measurements of one thing as one; the canary's ratio is the one furthest from 1."""
    repeats_ms = tuple(value for timing in timings for value in timing.sample.repeats_ms)
    sample = Sample(repeats_ms, sum(timing.sample.outliers for timing in timings))
    ratio = max((timing.canary_ratio for timing in timings), key=lambda ratio: abs(ratio - 1.0))
    return HonestTiming(
        sample, ratio, sum(timing.tries for timing in timings), all(timing.steady for timing in timings)
    )


@dataclass(frozen=True)
class Watched:
    """A session's result, its canary before and after (milliseconds), and what the device reported about itself."""

    value: Any
    before_ms: float
    after_ms: float
    facts: dict[str, str]


class HonestTimer:
    """Measures between two runs of a canary, and again after a cooldown if the canary drifted.

    Args:
        drift_limit: largest relative change of the canary that counts as undisturbed.
        cooldown_seconds: pause before each measurement.
        rest_seconds: total budget for cooldowns; once it is spent, unsteady measurements are only marked.
        sleep: waits; replaced in tests.
    """

    def __init__(
        self,
        drift_limit: float,
        cooldown_seconds: float = 0.0,
        rest_seconds: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit, self._cooldown, self._sleep = drift_limit, cooldown_seconds, sleep
        self._cooldown_left = rest_seconds
        self._references_ms: dict[str, float] = {}

    def measure(self, time_it: Callable[[], tuple[str, Sequence[float], float, float]]) -> HonestTiming:
        """Times something until the canary shows a steady device, with a longer cooldown each time.

        Args:
            time_it: gives the device (each has its own reference), the repeats, the canary before and after.
        """
        tries = 0
        for cooldown in (*_COOLDOWNS, 0.0):
            self._sleep(self._cooldown)
            device, repeats_ms, before_ms, after_ms = time_it()
            require_times(device, repeats_ms)
            sample = drop_outliers(repeats_ms)
            tries += 1
            ratio = self._ratio(device, before_ms, after_ms)
            if ratio - 1.0 <= self._limit:
                return HonestTiming(sample, ratio, tries, steady=True)
            pause = cooldown * max(self._cooldown, _FIRST_COOLDOWN_SECONDS)
            if not cooldown or pause > self._cooldown_left:
                break
            self._cooldown_left -= pause
            self._sleep(pause)
        return HonestTiming(sample, ratio, tries, steady=False)

    def _ratio(self, device: str, before_ms: float, after_ms: float) -> float:
        """The slower of two canaries relative to the device's reference; never below 1."""
        require_times(device, (before_ms, after_ms))
        reference = min(self._references_ms.get(device, math.inf), before_ms, after_ms)
        self._references_ms[device] = reference
        return max(before_ms, after_ms) / reference


def require_times(device: str, latencies_ms: Sequence[float], may_be_zero: bool = False) -> None:
    """Raises :class:`DeviceError` if a device reported zero, negative or undefined latencies, or none.

    ``may_be_zero`` is for calls with nothing to compute, which a GPU's own clock does not see.
    """
    counted = [value for value in latencies_ms if value != 0.0] if may_be_zero else latencies_ms
    if may_be_zero and not counted and latencies_ms:
        return
    wrong = impossible_time(counted)
    if wrong is not None:
        raise DeviceError(
            f"device {device or 'without an address'}: {wrong.removeprefix('the device ')}; "
            "its clock or its driver is broken: restart its server and look at its log"
        )


def build_canary(target: ResolvedTarget, library: Path, link: dict[str, Any]) -> None:
    """Compiles the canary for a target into a library file.

    Args:
        target: what to compile for.
        library: the file.
        link: arguments of TVM's linker call, as :func:`tvmfbnet.compiler.library.linker` gives them.
    """
    import tvm
    from tvm import te
    from tvm.s_tir import dlight
    from tvm.support import cc

    vector = te.placeholder((CANARY_SIZE,), name="vector")
    matrix = te.placeholder((CANARY_SIZE, CANARY_SIZE), name="matrix")
    k = te.reduce_axis((0, CANARY_SIZE), name="k")
    product = te.compute((CANARY_SIZE,), lambda i: te.sum(vector[k] * matrix[k, i], axis=k), name="product")
    mod = tvm.IRModule({"main": te.create_prim_func([vector, matrix, product])})
    compiled_for = target.for_tvm()
    with compiled_for:
        if not target.on_cpu:
            mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(mod)
        tvm.compile(mod, target=compiled_for).export_library(str(library), fcompile=cc.create_shared, **link)


def build_vectors(target: ResolvedTarget, library: Path, link: dict[str, Any]) -> None:
    """Compiles a kernel that multiplies and adds in the widest vectors of a CPU target; the canary is scalar.

    It takes values of the target's dtype and computes in the dtype's accumulator.

    Takes the arguments of :func:`build_canary`; :func:`run_vectors` runs the kernel.
    """
    import tvm
    from tvm import te
    from tvm.s_tir import Schedule
    from tvm.support import cc

    dtype, wide = target.data_type.name, target.data_type.accumulator
    one, other = (te.placeholder((CANARY_SIZE,), dtype, name) for name in ("one", "other"))
    total = te.compute(
        (CANARY_SIZE,), lambda i: one[i].astype(wide) * other[i].astype(wide) + one[i].astype(wide), name="total"
    )
    schedule = Schedule(tvm.IRModule({"main": te.create_prim_func([one, other, total])}))
    (loop,) = schedule.get_loops(schedule.get_sblock("total"))
    _, lanes = schedule.split(loop, [None, _WIDEST_BYTES // bytes_of(wide)])
    schedule.vectorize(lanes)
    compiled_for = target.for_tvm()
    tvm.compile(schedule.mod, target=compiled_for).export_library(str(library), fcompile=cc.create_shared, **link)


# What follows runs in the worker process.


def run_vectors(session: Session, library: str, dtype: str, accumulator: str) -> float:
    """Runs the kernel of :func:`build_vectors` for these types; returns the largest relative error of its result."""
    one, other = (random_tensor((CANARY_SIZE,), dtype, seed) for seed in range(2))
    arguments = [session.put(array) for array in (one, other, np.zeros(CANARY_SIZE, accumulator))]
    session.load(library)["main"](*arguments)
    expected = one.astype(np.float64) * other + one
    return float(np.abs(arguments[2].numpy() - expected).max() / np.abs(expected).max())


def run_canary(session: Session, library: str, repeats: Repeats = _CANARY_REPEATS) -> tuple[float, tuple[float, ...]]:
    """Runs and times the canary; returns the largest relative error of its result, and milliseconds per repeat."""
    generator = np.random.default_rng(0)
    vector = generator.standard_normal(CANARY_SIZE).astype(np.float32)
    matrix = generator.standard_normal((CANARY_SIZE, CANARY_SIZE)).astype(np.float32)
    module = session.load(library)
    arguments = [session.put(array) for array in (vector, matrix, np.zeros(CANARY_SIZE, np.float32))]
    module["main"](*arguments)
    expected = vector.astype(np.float64) @ matrix
    error = float(np.abs(arguments[2].numpy() - expected).max() / np.abs(expected).max())
    if repeats.warmup:
        module.time_evaluator("main", session.device, number=repeats.warmup)(*arguments)
    evaluator = module.time_evaluator(
        "main", session.device, number=1, repeat=repeats.repeats, min_repeat_ms=repeats.min_repeat_ms
    )
    return error, tuple(1e3 * seconds for seconds in evaluator(*arguments).results)


def watch(session: Session, canary: str, job: Callable[..., Any], *arguments: Any) -> Watched:
    """Runs a job between two canaries in one session, so on one device, and reads the device's facts around it."""
    before = device_facts(session)
    _, first = run_canary(session, canary)
    value = job(session, *arguments)
    _, second = run_canary(session, canary)
    facts = {**device_facts(session), **{f"{name}_before": before[name] for name in _CHANGING if name in before}}
    return Watched(value, statistics.median(first), statistics.median(second), facts)


def observe(session: Session, job: Callable[..., Any], *arguments: Any) -> Watched:
    """As :func:`watch`, on a simulated device: it never drifts, so no canary runs."""
    return Watched(job(session, *arguments), 1.0, 1.0, device_facts(session))


def device_limits(session: Session) -> dict[str, int]:
    """What one work group may use on an OpenCL or Metal device; empty for a CPU."""
    limits = {
        "max_threads_per_block": session.device.max_threads_per_block,
        "max_shared_memory_per_block": session.device.max_shared_memory_per_block,
    }
    return {name: int(value) for name, value in limits.items() if value is not None}
