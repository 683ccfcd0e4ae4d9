"""Spending a budget of trials on tuning tasks: proposing, building and timing overlap, on as many devices as there are.

Every trial is on the disk as soon as it was timed, whatever the other trials of its round are doing: a run that is
killed loses what was in flight and nothing else, and one that is killed again and again still gets on. Which task gets
the next round, :mod:`tvmfbnet.autotune.task_scheduler` says.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.autotune.builder_pool import BuilderPool, BuildResult
from tvmfbnet.autotune.candidate import Search
from tvmfbnet.autotune.cost_model import Ranking
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.database_folders import TRIALS, folder_to_write
from tvmfbnet.autotune.estimate import RunningEstimate
from tvmfbnet.autotune.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.autotune.plan import Plan, TuningTask
from tvmfbnet.autotune.task_scheduler import TaskState, next_task
from tvmfbnet.autotune.template_search import SEEDS, TemplateSearch
from tvmfbnet.autotune.templates import has_templates, registers_of, shape_of
from tvmfbnet.autotune.transfer import Lesson
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.autotune.trial_runner import Activity, News, OpenRound, RoundRunner, StoppedError, start_worker
from tvmfbnet.interrupts import raise_if_interrupted, undisturbed
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.machine import allowed_cores
from tvmfbnet.progress import Reporter, progress, say
from tvmfbnet.rpc.device_context import ask_context
from tvmfbnet.rpc.remote import RemoteWorker, worker_for
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.rpc.tracker import Endpoint, query_tracker
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# Rounds that are built or timed at once, beyond one a device.
_ROUNDS_AHEAD = 2

# Candidates a round.
BATCH = 8

# What is told to the person who watches is at most so old, in seconds.
_TOLD_EVERY = 1.0


@dataclass(frozen=True)
class Budget:
    """When tuning ends: after just so many trials (earlier runs included), or seconds of this run, which comes first.

    Every task gets one round all the same: without a schedule its kernel would be very slow.
    """

    trials: int
    seconds: float | None = None


@dataclass(frozen=True)
class TuningReport:
    """What a tuning run did: trials in all (earlier runs included), in this run, failed ones by kind, seconds.

    ``device_faults`` counts sessions that broke, by device and what happened to it; their trials were done again.

    ``profile`` is seconds of this run by what they went to: ``propose`` and ``learn`` (this process), ``build`` (sum
    over workers), ``measure`` (sum over devices), ``wait`` (this process, for builders and devices).
    """

    trials: int
    new_trials: int
    failures: dict[str, int]
    device_faults: dict[str, dict[str, int]]
    untuned: tuple[str, ...]
    seconds: float
    profile: dict[str, float]


class Engine:
    """Tunes the tasks of a plan on the devices of an endpoint until the budget is spent.

    Args:
        plan: the tasks.
        endpoint: where the devices are.
        database: where schedules go; the log of trials lies beside it.
        budget: when to stop.
        batch: candidates a round.
        seed: of the search.
        executor: runs the builds instead of processes on this machine.
        lessons: trials of other targets to learn from.
        estimate: tells how long the rest takes once the first rounds are done.
    """

    def __init__(
        self,
        plan: Plan,
        endpoint: Endpoint,
        database: TuningDatabase,
        budget: Budget,
        batch: int = BATCH,
        seed: int = 0,
        executor: Executor | None = None,
        lessons: Sequence[Lesson] = (),
        estimate: RunningEstimate | None = None,
    ) -> None:
        self._estimate = estimate
        self.plan, self.endpoint, self.budget, self.batch, self.seed = plan, endpoint, budget, batch, seed
        self.target: ResolvedTarget = plan.target
        self._executor, self._lessons = executor, lessons
        self._compiled_for = plan.target.for_tvm()
        self.database = database
        self.log = TrialLog(database.folder / TRIALS)
        self._templates = has_templates(self._compiled_for)
        self._cost_model: Any = None
        self._states = [self._restore(task) for task in plan.tasks]
        self._activity = Activity()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._in_flight: list[OpenRound] = []
        self._fastest = 0.0

    def _restore(self, task: TuningTask) -> TaskState:
        key = task.kernel.key
        # A schedule that is lost counts as none, whatever its time was: the task gets another one.
        best_ms = self.log.best_ms.get(key) if self.database.holds(task.kernel) else None
        return TaskState(task, best_ms, -(-self.log.spent[key] // self.batch))

    def _learnt_ranking(self) -> Ranking:
        ranking = Ranking(registers_of(self._compiled_for), self.seed, self._lessons)
        for trials in self.log.templated.values():
            for trial in trials:
                ranking.add(trial.shape, trial.knobs, trial.best_ms)
        return ranking

    def _spent(self) -> int:
        return sum(self.log.spent[state.task.kernel.key] for state in self._states)

    def run(self) -> TuningReport:
        """Tunes until every task has a valid schedule (or is given up) and the budget is spent."""
        started, before = time.monotonic(), self._spent()
        if any(not state.valid for state in self._states) or before < self.budget.trials:
            self._tune(started)
        untuned = tuple(state.task.kernel.name for state in self._states if not state.valid)
        if untuned:
            say(f"warning: {len(untuned)} task(s) have no valid schedule: {', '.join(untuned)}")
        spent, seconds = self._spent(), time.monotonic() - started
        profile = {what: round(value, 2) for what, value in self._activity.seconds.items()}
        failures = dict(self.log.failures)
        return TuningReport(
            spent, spent - before, failures, self._activity.faults_by_device(), untuned, seconds, profile
        )

    def _tune(self, started: float) -> None:
        devices = max(1, query_tracker(self.endpoint.host, self.endpoint.port).serving(self.endpoint.key))
        builders, rounds = builders_and_rounds(self.target, devices, allowed_cores())
        before = self._spent()
        with ExitStack() as stack:
            reporter = stack.enter_context(progress("tuning trials", self._aim(), done=before))
            folder = stack.enter_context(scratch_folder())
            pool = stack.enter_context(BuilderPool(self.target, builders, folder, self._executor))
            workers: queue.Queue[RemoteWorker] = queue.Queue()
            for _ in range(devices):
                worker = stack.enter_context(worker_for(self.target, self.endpoint))
                threading.Thread(target=start_worker, args=(worker, workers), daemon=True).start()
            runner = RoundRunner(self.target, self.endpoint, pool, workers, folder, self._activity)
            try:
                self._loop(runner, rounds, reporter, started)
            finally:  # also after a Ctrl-C, or when one round found no device: what others have timed is kept
                runner.stop()
                with undisturbed(), suppress(queue.Empty):
                    while True:
                        self._take(self._news.get_nowait())

    def _loop(self, runner: RoundRunner, most: int, reporter: Reporter, started: float) -> None:
        ranking = self._learnt_ranking() if self._templates else None
        while True:
            in_time = self.budget.seconds is None or time.monotonic() - started < self.budget.seconds
            state = self._choose(in_time) if len(self._in_flight) < most else None
            if state is not None:
                self._start(state, runner, ranking)
            elif self._in_flight:
                waited = time.monotonic()
                with suppress(queue.Empty):
                    news = self._news.get(timeout=_TOLD_EVERY)
                    self._activity.add("wait", time.monotonic() - waited)
                    if news.error is not None:
                        raise news.error
                    with undisturbed():
                        self._take(news)
            else:
                return
            spent = self._spent()
            reporter.retotal(self._aim())
            reporter.update(spent, self._note(started))
            if self._estimate is not None and in_time:
                self._estimate.update(self._activity.trials, self._aim() - spent)

    def _aim(self) -> int:
        """Trials that there will be in the end: those of the budget, or more where first rounds are still due."""
        due = sum(self.batch for state in self._states if not state.valid and not state.rounds and not state.in_flight)
        return max(self.budget.trials, self._spent() + sum(opened.pending for opened in self._in_flight) + due)

    def _trials_left(self) -> int:
        return self.budget.trials - self._spent() - sum(opened.pending for opened in self._in_flight)

    def _choose(self, in_time: bool) -> TaskState | None:
        return next_task(self._states, in_time and self._trials_left() > 0)

    def _start(self, state: TaskState, runner: RoundRunner, ranking: Ranking | None) -> None:
        began = time.monotonic()
        if state.search is None:
            state.search = self._search_of(state.task, ranking)
        # A first round is whole; later ones end where the budget does.
        candidates = state.search.propose(min(self.batch, self._trials_left()) if state.valid else self.batch)
        raise_if_interrupted()  # a library may have taken it for a kernel that cannot be scheduled
        self._activity.add("propose", time.monotonic() - began)
        if not candidates:
            state.exhausted = True
            return
        state.in_flight = True
        opened = OpenRound(state, candidates, state.best_ms)
        self._in_flight.append(opened)
        builds = [runner.pool.submit(candidate) if not candidate.error else None for candidate in candidates]
        threading.Thread(target=self._run_round, args=(opened, builds, runner), daemon=True).start()

    def _run_round(self, opened: OpenRound, builds: list[Future[BuildResult] | None], runner: RoundRunner) -> None:
        """A round's thread: all that it finds out goes to the main one."""
        try:
            runner.time(opened.candidates, builds, lambda place, timing: self._news.put(News(opened, place, timing)))
            self._news.put(News(opened))
        except StoppedError:
            pass
        except BaseException as error:
            self._news.put(News(opened, error=error))

    def _search_of(self, task: TuningTask, ranking: Ranking | None) -> Search:
        shape = shape_of(task.kernel.mod) if ranking is not None else None
        if ranking is not None and shape is not None:
            # Where the best schedule was lost with a damaged file, what was tried may be tried again.
            is_lost = task.kernel.key in self.log.best_ms and not self.database.holds(task.kernel)
            tried = [] if is_lost else [trial.knobs for trial in self.log.templated[task.kernel.key]]
            seeds = self.log.seeds(task.kernel.key, shape, SEEDS) if not tried else []
            return TemplateSearch(task.kernel, shape, ranking, tried, self.batch, self.seed, seeds)
        if self._cost_model is None:
            self._cost_model = new_cost_model()
        return EvolutionSearch(task.kernel, self._compiled_for, self.database, self._cost_model, self.batch, self.seed)

    def _take(self, news: News) -> None:
        if news.timing is not None:
            self._record(news.told_by, news.place, news.timing)
        elif news.error is None:
            self._finish(news.told_by)

    def _record(self, opened: OpenRound, place: int, timing: KernelTiming) -> None:
        """Writes one trial: to the database first, so that the log never counts a schedule that is not there."""
        state, candidate = opened.state, opened.candidates[place]
        kernel, shape = state.task.kernel, state.search.shape if state.search is not None else None
        opened.timings[place] = timing
        if timing.best_ms is not None:
            best = state.best_ms is None or timing.best_ms < state.best_ms
            # Every trial is in the log; TVM's database, slow to open, needs those that may be used. Evolution breeds
            # from all.
            if best or shape is None:
                self.database.add(candidate, kernel, self._compiled_for, timing.best_ms)
                self.database.flush()
            state.best_ms = timing.best_ms if best else state.best_ms
        self.log.append(kernel, shape, [candidate.knobs], [timing])

    def _finish(self, finished: OpenRound) -> None:
        """All of a round is recorded; the search learns from it."""
        state = finished.state
        shape = state.search.shape if state.search is not None else None
        began = time.monotonic()
        if state.search is not None:
            state.search.learn([finished.timings[place] for place in range(len(finished.candidates))])
        self._activity.add("learn", time.monotonic() - began)
        if shape is not None and state.best_ms is not None and shape.kind in ("conv", "depthwise", "matmul"):
            self._fastest = max(self._fastest, 2e-6 * shape.products / state.best_ms)
        self._in_flight.remove(finished)
        state.finish_round(finished.best_before_ms)

    def _note(self, started: float) -> str:
        untuned = sum(not state.valid for state in self._states)
        activity, seconds = self._activity, max(time.monotonic() - started, 1e-9)
        notes = [f"{activity.trials / seconds:.1f} a second"]
        notes += [f"{untuned} kernel(s) still without a schedule"] if untuned else []
        notes += [f"best {self._fastest:.0f} GFLOP/s"] if self._fastest else []
        notes.append(f"{activity.busy} device(s) busy")  # at this moment; shown again at least every second
        if self.log.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.log.failures.most_common())
            notes.append(f"failed: {kinds}")
        if activity.faults:
            notes.append(f"{activity.faults.total()} device fault(s)")
        return ", ".join(notes)


def builders_and_rounds(target: ResolvedTarget, devices: int, cores: int) -> tuple[int, int]:
    """Builder processes, and rounds that are under way at once.

    A local target's kernels are timed on this machine: their threads' cores stay free of builders. Where no core is
    left for these, nothing is built while something is timed, and builders have all cores in between.

    Args:
        target: what is tuned.
        devices: how many serve it.
        cores: that this process may use.
    """
    if target.transport.kind != "local":
        return cores, devices + _ROUNDS_AHEAD
    left = cores - target.threads * devices
    if left < 1 < target.threads:
        return cores, 1
    return max(1, left), devices + _ROUNDS_AHEAD


def tune(
    plan: Plan,
    endpoint: Endpoint,
    folder: Path,
    budget: Budget,
    seed: int = 0,
    batch: int = BATCH,
    executor: Executor | None = None,
    lessons: Sequence[Lesson] = (),
    context: Context | None = None,
    estimate: RunningEstimate | None = None,
) -> TuningReport:
    """Tunes a plan's tasks; waits while another process tunes or measures the same target, then does what is left.

    Args:
        plan: the tasks.
        endpoint: where the devices are.
        folder: the target's folder in ``tuning_logs``.
        budget: when to stop.
        seed: of the search.
        batch: candidates a round.
        executor: runs the builds instead of processes on this machine.
        lessons: trials of other targets to learn from.
        context: of the endpoint's devices; they are asked if it is None.
        estimate: tells how long the rest takes once the first rounds are done.

    Raises:
        StorageError: the folder is not writable.
        DeviceError: the device went away and did not come back, or is not as the target asks.
    """
    with target_lock(folder):
        if context is None:
            context, endpoint = ask_context(plan.target, endpoint)
        database = TuningDatabase(folder_to_write(folder, context), repair=True)
        return Engine(plan, endpoint, database, budget, batch, seed, executor, lessons, estimate).run()
