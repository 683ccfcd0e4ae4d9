"""Estimates the trial rate of a target: from its log, from a short probe on this machine, or from a running job.

The rate depends on this machine, which builds, and on its load at least as much as on the device. A rate that was not
measured here is a poor guide, so a plan names the source of its estimate, and a run corrects it after its first rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import tvm

from tvmfbnet.autotune.builder_pool import BuilderPool, Built
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.machines import is_templated
from tvmfbnet.autotune.plan import TRIALS_PER_SECOND, Plan
from tvmfbnet.autotune.template_search import TemplateSearch
from tvmfbnet.autotune.templates import machine_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.machine import allowed_cores
from tvmfbnet.progress import step
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# Target duration of a probe, seconds; on a loaded machine its last kernel takes longer.
PROBE_SECONDS = 4.0
_MOST_PROBED = 8
# Sending a kernel to the device and loading it there, seconds.
_SENDING_SECONDS = 0.03
# A run reports its own rate after this many trials and seconds since the first one.
_ENOUGH_TRIALS, _ENOUGH_SECONDS = 16, 5.0


@dataclass(frozen=True)
class Rate:
    """A trial rate and where it comes from.

    Attributes:
        trials_per_second: trials built and timed per second.
        source: completes "estimated from" in messages.
        is_own: whether it was measured on this target.
    """

    trials_per_second: float
    source: str
    is_own: bool = False

    @property
    def slowness(self) -> float:
        """Slowdown relative to the host that the plan's times were measured on."""
        return min(20.0, max(0.25, TRIALS_PER_SECOND / self.trials_per_second))


def rate_of(plan: Plan, log: TrialLog, probes: bool) -> Rate:
    """The expected rate of a plan's trials.

    Args:
        plan: whose kernels are tuned.
        log: the target's trials so far.
        probes: whether to build a few kernels here where the log has no rate.
    """
    own = log.trials_per_second()
    if own is not None:
        return Rate(own, "this target's trials so far", is_own=True)
    probed = _probe(plan) if probes else None
    return probed or Rate(TRIALS_PER_SECOND, "a quiet two-core host; not probed on this machine")


def _probe(plan: Plan) -> Rate | None:
    """Builds a sample of the plan's kernels with template schedules; None where none can be built."""
    compiled_for = tvm.target.Target(plan.target.tvm)
    cost_model, seconds = TrialCostModel(machine_of(compiled_for), 0), list[float]()
    began = time.monotonic()
    # Spread over the space: kernels of early layers build faster than those of late ones.
    tasks = plan.tasks[:: max(1, len(plan.tasks) // _MOST_PROBED)]
    with step("probing how fast this machine builds kernels"), scratch_folder() as folder:
        pool = BuilderPool(plan.target, 1, folder, _Here())
        for number, task in enumerate((tasks[0], *tasks)):  # the first one twice, as a warm-up
            shape = shape_of(task.kernel.mod)
            if shape is None or not is_templated(shape, cost_model.machine):
                continue
            (candidate,) = TemplateSearch(task.kernel, shape, cost_model, [], 1, 0).propose(1)
            built = pool.result(pool.submit(candidate)) if not candidate.error else None
            if isinstance(built, Built) and number:
                seconds.append(built.seconds)
            if time.monotonic() - began > PROBE_SECONDS and seconds:
                break
    if not seconds:
        return None
    told = f"{len(seconds)} kernel(s) built on this machine in {sum(seconds):.1f} s; no device was asked"
    return Rate(_rate_by_build(plan.target, sum(seconds) / len(seconds)), told)


class _Here(Executor):
    """Runs a job immediately, in this thread."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


def _rate_by_build(target: ResolvedTarget, build_seconds: float) -> float:
    """Trials per second for a build time and the target's timing policy."""
    timing, cores = target.timing, allowed_cores()
    timing_seconds = _SENDING_SECONDS + (timing.trial_repeats + 1) * timing.trial_min_ms / 1e3
    if target.transport.kind != "local":
        return 1.0 / max(build_seconds / cores, timing_seconds)
    # A trial is built by one core and timed by as many as it has threads, some of which build otherwise.
    threads = min(target.threads, cores)
    return 1.0 / max((build_seconds + threads * timing_seconds) / cores, timing_seconds)


class RunningEstimate:
    """Reports once, after a run's first rounds, the remaining time at their rate.

    Args:
        remaining_seconds: predicts the seconds of tuning and timing from the remaining trials and the rate.
        tell: prints the line.
    """

    def __init__(self, remaining_seconds: Callable[[int, Rate], float], tell: Callable[[str], None]) -> None:
        self._remaining_seconds, self._tell = remaining_seconds, tell
        self._first: tuple[float, int] | None = None
        self._told = False

    def update(self, trials: int, left: int) -> None:
        """Takes the trials done in this run and the trials left."""
        now = time.monotonic()
        if self._told or not trials:
            return
        if self._first is None:
            self._first = (now, trials)
            return
        seconds, done = now - self._first[0], trials - self._first[1]
        if done < _ENOUGH_TRIALS or seconds < _ENOUGH_SECONDS:
            return
        self._told = True
        rate = Rate(done / seconds, f"this run's first {trials} trials: {done / seconds:.1f} trials/s")
        remaining = timedelta(seconds=round(self._remaining_seconds(left, rate)))
        self._tell(f"about {remaining} to go (estimated from {rate.source})")
