"""How fast trials go on a target: by its own log, by a probe of some seconds on this machine, or by a run under way.

What a trial takes depends on this machine, which builds, and on what else runs on it, at least as much as on the
device. So a rate that was not measured here is worth little: a plan says what its estimate comes from, and a run
corrects it as soon as its first rounds are done.
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
from tvmfbnet.autotune.cost_model import Ranking
from tvmfbnet.autotune.plan import TRIALS_PER_SECOND, Plan
from tvmfbnet.autotune.template_search import TemplateSearch
from tvmfbnet.autotune.templates import has_templates, registers_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.machine import allowed_cores
from tvmfbnet.progress import step
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# A probe takes about so long, seconds; a loaded machine takes longer for its last kernel.
PROBE_SECONDS = 4.0
_MOST_PROBED = 8
# Sending a kernel to the device and loading it there, seconds.
_SENDING_SECONDS = 0.03
# A run tells its own rate after so many trials and seconds since the first one.
_ENOUGH_TRIALS, _ENOUGH_SECONDS = 16, 5.0


@dataclass(frozen=True)
class Rate:
    """Trials a second, and what that is known from.

    Attributes:
        trials_per_second: how many are built and timed.
        source: for a person, behind "estimated from".
        is_own: whether it was measured on this very target.
    """

    trials_per_second: float
    source: str
    is_own: bool = False

    @property
    def slowness(self) -> float:
        """How much slower than the host that the plan's times were measured on."""
        return min(20.0, max(0.25, TRIALS_PER_SECOND / self.trials_per_second))


def rate_of(plan: Plan, log: TrialLog, probes: bool) -> Rate:
    """The rate to expect of a plan's trials.

    Args:
        plan: whose kernels are tuned.
        log: trials of the target so far.
        probes: whether some kernels may be built here to find out, where the log does not tell.
    """
    own = log.trials_per_second()
    if own is not None:
        return Rate(own, "this target's trials so far", is_own=True)
    found = _probe(plan) if probes else None
    return found or Rate(TRIALS_PER_SECOND, "a quiet two-core host; not probed on this machine")


def _probe(plan: Plan) -> Rate | None:
    """Builds some of the plan's kernels, each with a schedule of its own; None where no template makes schedules."""
    compiled_for = tvm.target.Target(plan.target.tvm)
    if not has_templates(compiled_for):
        return None
    ranking, seconds = Ranking(registers_of(compiled_for), 0), list[float]()
    began = time.monotonic()
    # From all over the space: a first layer's kernel builds faster than a last one's.
    tasks = plan.tasks[:: max(1, len(plan.tasks) // _MOST_PROBED)]
    with step("probing how fast this machine builds kernels"), scratch_folder() as folder:
        pool = BuilderPool(plan.target, 1, folder, _Here())
        for number, task in enumerate((tasks[0], *tasks)):  # the first one again: it loads what builds need
            shape = shape_of(task.kernel.mod)
            if shape is None:
                continue
            (candidate,) = TemplateSearch(task.kernel, shape, ranking, [], 1, 0).propose(1)
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
    """Runs a job at once, in this thread."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


def _rate_by_build(target: ResolvedTarget, build_seconds: float) -> float:
    """Trials a second where one build takes so long and timing takes what the target's policy asks for."""
    from tvmfbnet.autotune.engine import builders_and_rounds

    timing = target.timing
    timing_seconds = _SENDING_SECONDS + (timing.trial_repeats + 1) * timing.trial_min_ms / 1e3
    builders, rounds = builders_and_rounds(target, 1, allowed_cores())
    if rounds == 1:  # building and timing take turns
        return 1.0 / (build_seconds / builders + timing_seconds)
    return 1.0 / max(build_seconds / builders, timing_seconds)


class RunningEstimate:
    """Tells once, after a run's first rounds, how long the rest will take at their rate.

    Args:
        rest: seconds that tuning and timing will still take, by the trials that are left and the rate.
        tell: takes the line.
    """

    def __init__(self, rest: Callable[[int, Rate], float], tell: Callable[[str], None]) -> None:
        self._rest, self._tell = rest, tell
        self._first: tuple[float, int] | None = None
        self._told = False

    def update(self, trials: int, left: int) -> None:
        """So many trials are done in this run, and so many are left."""
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
        rate = Rate(done / seconds, f"this run's first {trials} trials: {done / seconds:.1f} a second")
        self._tell(f"about {timedelta(seconds=round(self._rest(left, rate)))} to go (estimated from {rate.source})")
