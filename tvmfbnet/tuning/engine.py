"""Spending a budget of trials on tuning tasks: proposing, building and timing overlap, on as many devices as there are.

Which task gets the next round, :mod:`tvmfbnet.tuning.task_scheduler` says.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm

from tvmfbnet.devices.remote import RemoteWorker, worker_for
from tvmfbnet.devices.session import KernelTiming
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.tracker import Endpoint, query_tracker
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.machine import allowed_cores
from tvmfbnet.progress import Reporter, progress, say
from tvmfbnet.tuning.builders import BuilderPool
from tvmfbnet.tuning.candidate import Candidate, Search
from tvmfbnet.tuning.context import ask_context
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.tuning.folders import TRIALS, folder_to_write
from tvmfbnet.tuning.lessons import Lesson
from tvmfbnet.tuning.plan import Plan, TuningTask
from tvmfbnet.tuning.ranking import Ranking
from tvmfbnet.tuning.rounds import Activity, RoundRunner
from tvmfbnet.tuning.task_scheduler import TaskState, next_task
from tvmfbnet.tuning.template_search import SEEDS, TemplateSearch
from tvmfbnet.tuning.templates import has_templates, registers_of, shape_of
from tvmfbnet.tuning.trials import TrialLog

# Rounds that are built or timed at once, beyond one a device.
_ROUNDS_AHEAD = 2

# Candidates a round.
BATCH = 8


@dataclass(frozen=True)
class Budget:
    """When tuning ends: after so many trials (earlier runs included), or seconds of this run, whichever comes first.

    Every task gets one round all the same: without a schedule its kernel would be very slow.
    """

    trials: int
    seconds: float | None = None


@dataclass
class _Round:
    state: TaskState
    candidates: Sequence[Candidate]
    timings: Future[list[KernelTiming]] = field(default_factory=Future)


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
    ) -> None:
        self.plan, self.endpoint, self.budget, self.batch, self.seed = plan, endpoint, budget, batch, seed
        self.target: Target = plan.target
        self._executor, self._lessons = executor, lessons
        self._compiled_for = tvm.target.Target(plan.target.tvm)
        self.database = database
        self.log = TrialLog(database.folder / TRIALS)
        self._templates = has_templates(self._compiled_for)
        self._cost_model: Any = None
        self._states = [self._restore(task) for task in plan.tasks]
        self._activity = Activity()
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
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tvmfbnet-")))
            pool = stack.enter_context(BuilderPool(self.target, builders, self._executor))
            workers: queue.Queue[RemoteWorker] = queue.Queue()
            for _ in range(devices):
                workers.put(stack.enter_context(worker_for(self.target, self.endpoint)))
            timers = stack.enter_context(ThreadPoolExecutor(max_workers=rounds))
            runner = RoundRunner(self.target, self.endpoint, pool, workers, folder, self._activity)
            reporter = stack.enter_context(progress("tuning trials", max(self.budget.trials, before), done=before))
            self._loop(runner, timers, rounds, reporter, started)

    def _loop(
        self, runner: RoundRunner, timers: ThreadPoolExecutor, most: int, reporter: Reporter, started: float
    ) -> None:
        in_flight: list[_Round] = []
        ranking = self._learnt_ranking() if self._templates else None
        while True:
            in_time = self.budget.seconds is None or time.monotonic() - started < self.budget.seconds
            state = self._choose(in_time) if len(in_flight) < most else None
            if state is not None:
                opened = self._start(state, runner, timers, ranking)
                in_flight += [opened] if opened is not None else []
            elif in_flight:
                waited = time.monotonic()
                wait([opened.timings for opened in in_flight], return_when=FIRST_COMPLETED)
                self._activity.add("wait", time.monotonic() - waited)
                for opened in [opened for opened in in_flight if opened.timings.done()]:
                    in_flight.remove(opened)
                    self._finish(opened)
                reporter.update(self._spent(), self._note(started))
            else:
                return

    def _choose(self, in_time: bool) -> TaskState | None:
        pending = self.batch * sum(state.in_flight for state in self._states)
        return next_task(self._states, in_time and self._spent() + pending < self.budget.trials)

    def _start(
        self, state: TaskState, runner: RoundRunner, timers: ThreadPoolExecutor, ranking: Ranking | None
    ) -> _Round | None:
        began = time.monotonic()
        if state.search is None:
            state.search = self._search_of(state.task, ranking)
        candidates = state.search.propose()
        self._activity.add("propose", time.monotonic() - began)
        if not candidates:
            state.exhausted = True
            return None
        state.in_flight = True
        builds = [runner.pool.submit(candidate) if not candidate.error else None for candidate in candidates]
        return _Round(state, candidates, timers.submit(runner.time, candidates, builds))

    def _search_of(self, task: TuningTask, ranking: Ranking | None) -> Search:
        shape = shape_of(task.kernel.mod) if ranking is not None else None
        if ranking is not None and shape is not None:
            tried = [trial.knobs for trial in self.log.templated[task.kernel.key]]
            seeds = self.log.seeds(task.kernel.key, shape, SEEDS) if not tried else []
            return TemplateSearch(task.kernel, shape, ranking, tried, self.batch, self.seed, seeds)
        if self._cost_model is None:
            self._cost_model = new_cost_model()
        return EvolutionSearch(task.kernel, self._compiled_for, self.database, self._cost_model, self.batch, self.seed)

    def _finish(self, finished: _Round) -> None:
        """Records a round: in the database and the log first, then in the search."""
        state, timings = finished.state, finished.timings.result()
        kernel, before = state.task.kernel, state.best_ms
        shape = state.search.shape if state.search is not None else None
        for candidate, timing in zip(finished.candidates, timings, strict=True):
            if timing.best_ms is None:
                continue
            best = state.best_ms is None or timing.best_ms < state.best_ms
            # Every trial is in the log; TVM's database, slow to open, needs those that may be used. Evolution breeds
            # from all.
            if best or shape is None:
                self.database.add(candidate, kernel, self._compiled_for, timing.best_ms)
            state.best_ms = timing.best_ms if best else state.best_ms
        self.database.flush()
        self.log.append(kernel, shape, [candidate.knobs for candidate in finished.candidates], timings)
        began = time.monotonic()
        if state.search is not None:
            state.search.learn(timings)
        self._activity.add("learn", time.monotonic() - began)
        if shape is not None and state.best_ms is not None and shape.kind in ("conv", "depthwise", "matmul"):
            self._fastest = max(self._fastest, 2e-6 * shape.products / state.best_ms)
        state.finish_round(before)

    def _note(self, started: float) -> str:
        tuned = sum(state.valid for state in self._states)
        activity, seconds = self._activity, max(time.monotonic() - started, 1e-9)
        notes = [f"{tuned}/{len(self._states)} tasks tuned", f"{activity.trials / seconds:.1f} trials/s"]
        notes += [f"best {self._fastest:.0f} GFLOP/s"] if self._fastest else []
        notes.append(f"{activity.busy} device(s) busy")
        if self.log.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.log.failures.most_common())
            notes.append(f"failed: {kinds}")
        if activity.faults:
            notes.append(f"{activity.faults.total()} device fault(s)")
        return ", ".join(notes)


def builders_and_rounds(target: Target, devices: int, cores: int) -> tuple[int, int]:
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

    Raises:
        StorageError: the folder is not writable.
        DeviceError: the device went away and did not come back, or is not as the target asks.
    """
    with target_lock(folder):
        if context is None:
            context, endpoint = ask_context(plan.target, endpoint)
        database = TuningDatabase(folder_to_write(folder, context), repair=True)
        return Engine(plan, endpoint, database, budget, batch, seed, executor, lessons).run()
