"""Spending a budget of trials on tuning tasks: while one round is built and timed, the next one is searched.

Every task gets a first round; after that the rounds go where the space gains most: to the task with the largest
(cells it serves) x (its best time) / (rounds it has had).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from filelock import FileLock, Timeout

from tvmfbnet.devices.remote import KernelJob, KernelTiming, RemoteWorker, Repeats, time_kernels
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.tracker import Endpoint, require_key
from tvmfbnet.errors import DeviceError, StorageError
from tvmfbnet.progress import Reporter, progress, say
from tvmfbnet.tuning.builders import BuilderPool
from tvmfbnet.tuning.metaschedule import Candidate, TaskSearch, TuningDatabase, new_cost_model
from tvmfbnet.tuning.plan import Plan, TuningTask
from tvmfbnet.tuning.trials import TrialLog

# Rounds without one valid trial after which a task is given up, with a warning.
_HOPELESS_ROUNDS = 3
_ROUNDS_IN_FLIGHT = 2

# Candidates a round.
BATCH = 8


def database_folder(target_folder: Path) -> Path:
    """Where a target's tuning database lives: ``tuning_logs/TARGET/database``."""
    return target_folder / "database"


@dataclass
class _TaskState:
    task: TuningTask
    best_ms: float | None
    rounds: int
    valid: bool
    search: TaskSearch | None = None
    exhausted: bool = False
    in_flight: bool = False


@dataclass
class _Round:
    state: _TaskState
    candidates: list[Candidate]
    timings: Future[list[KernelTiming]] = field(default_factory=Future)


@dataclass(frozen=True)
class TuningReport:
    """What a tuning run did: trials in all (earlier runs included), in this run, failures by kind, seconds."""

    trials: int
    new_trials: int
    failures: dict[str, int]
    untuned: tuple[str, ...]
    seconds: float


class Engine:
    """Tunes the tasks of a plan on one device until the budget is spent.

    Args:
        plan: the tasks.
        endpoint: where the device is.
        folder: the target's folder in ``tuning_logs``.
        trials: budget in trials for these tasks, those of earlier runs included.
        batch: candidates a round.
        seed: of the search.
    """

    def __init__(
        self, plan: Plan, endpoint: Endpoint, folder: Path, trials: int, batch: int = BATCH, seed: int = 0
    ) -> None:
        self.plan, self.endpoint, self.trials, self.batch, self.seed = plan, endpoint, trials, batch, seed
        self.target: Target = plan.target
        self._compiled_for = tvm.target.Target(plan.target.tvm)
        self.database = TuningDatabase(database_folder(folder), repair=True)
        self.log = TrialLog(self.database.folder / "trials.jsonl")
        self._cost_model: Any = new_cost_model()
        self._states = [self._restore(task) for task in plan.tasks]

    def _restore(self, task: TuningTask) -> _TaskState:
        best = self.database.best_ms(task.kernel, self._compiled_for)
        rounds = -(-self.log.spent[task.kernel.key] // self.batch)
        return _TaskState(task, best, rounds, best is not None)

    def _spent(self) -> int:
        return sum(self.log.spent[state.task.kernel.key] for state in self._states)

    def run(self) -> TuningReport:
        """Tunes until every task has a valid schedule (or is given up) and the budget is spent."""
        started, before = time.monotonic(), self._spent()
        total = max(self.trials, before)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tvmfbnet-")))
            pool = stack.enter_context(BuilderPool(self.target, folder, workers=max(1, (os.cpu_count() or 2) - 1)))
            worker = stack.enter_context(RemoteWorker(self.endpoint, self.target.device, self.target.timeouts.session))
            timer = stack.enter_context(ThreadPoolExecutor(max_workers=1))
            reporter = stack.enter_context(progress("tuning trials", total, done=before))
            self._loop(pool, worker, timer, reporter)
        untuned = tuple(state.task.kernel.name for state in self._states if not state.valid)
        if untuned:
            say(f"warning: {len(untuned)} task(s) have no valid schedule: {', '.join(untuned)}")
        spent = self._spent()
        return TuningReport(spent, spent - before, dict(self.log.failures), untuned, time.monotonic() - started)

    def _loop(self, pool: BuilderPool, worker: RemoteWorker, timer: ThreadPoolExecutor, reporter: Reporter) -> None:
        in_flight: list[_Round] = []
        while True:
            state = self._choose()
            if state is None and not in_flight:
                return
            if state is not None:
                started = self._start(state, pool, worker, timer)
                if started is not None:
                    in_flight.append(started)
            if in_flight and (state is None or len(in_flight) >= _ROUNDS_IN_FLIGHT):
                self._finish(in_flight.pop(0))
                reporter.update(self._spent(), self._note())

    def _choose(self) -> _TaskState | None:
        """The task whose next round promises most, or None when nothing is worth (or allowed) another round."""
        free = [state for state in self._states if not state.exhausted and not state.in_flight]
        first = [state for state in free if not state.valid and state.rounds < _HOPELESS_ROUNDS]
        if first:
            return first[0]
        pending = self.batch * sum(state.in_flight for state in self._states)
        ready = [state for state in free if state.best_ms is not None]
        if self._spent() + pending >= self.trials or not ready:
            return None
        return max(ready, key=lambda state: state.task.cells * (state.best_ms or 0.0) / max(state.rounds, 1))

    def _start(
        self, state: _TaskState, pool: BuilderPool, worker: RemoteWorker, timer: ThreadPoolExecutor
    ) -> _Round | None:
        if state.search is None:
            state.search = TaskSearch(
                state.task.kernel, self._compiled_for, self.database, self._cost_model, self.batch, self.seed
            )
        candidates = state.search.propose()
        if not candidates:
            state.exhausted = True
            return None
        state.in_flight = True
        builds = [pool.submit(candidate) for candidate in candidates]
        timings = timer.submit(self._time, candidates, builds, pool, worker)
        return _Round(state, candidates, timings)

    def _time(
        self, candidates: Sequence[Candidate], builds: Sequence[Future[str]], pool: BuilderPool, worker: RemoteWorker
    ) -> list[KernelTiming]:
        """Runs in the timer's thread: waits for the builds, times what was built, in the candidates' order."""
        timings: list[KernelTiming | None] = []
        jobs: list[KernelJob] = []
        for candidate, built in zip(candidates, builds, strict=True):
            error = built.exception()
            timings.append(pool.failure(error) if error is not None else None)
            if error is None:
                jobs.append(KernelJob(built.result(), candidate.arguments))
        timed = iter(self._time_jobs(jobs, worker))
        for job in jobs:
            Path(job.library).unlink(missing_ok=True)
        return [timing if timing is not None else next(timed) for timing in timings]

    def _time_jobs(self, jobs: Sequence[KernelJob], worker: RemoteWorker) -> list[KernelTiming]:
        """Times a round in one session; if that breaks, each candidate alone, so that one cannot fail the others."""
        policy = self.target.timing
        repeats = Repeats(policy.trial_repeats, policy.trial_min_ms)
        seconds = self.target.timeouts.trial
        if not jobs:
            return []
        try:
            return worker.call(time_kernels, jobs, repeats, seconds=self.target.timeouts.connect + seconds * len(jobs))
        except DeviceError:
            require_key(self.endpoint, self.target.timeouts.connect)
        results = []
        for job in jobs:
            try:
                deadline = self.target.timeouts.connect + seconds
                results += worker.call(time_kernels, [job], repeats, seconds=deadline)
            except DeviceError as error:
                results.append(KernelTiming(error=str(error), kind="device"))
                require_key(self.endpoint, self.target.timeouts.connect)
        return results

    def _finish(self, finished: _Round) -> None:
        """Records a round: in the database and the log first, then in the search and the cost model."""
        state, timings = finished.state, finished.timings.result()
        kernel = state.task.kernel
        for candidate, timing in zip(finished.candidates, timings, strict=True):
            if not timing.error:
                self.database.add(candidate.raw, kernel, self._compiled_for, timing.repeats_ms)
                mean = sum(timing.repeats_ms) / len(timing.repeats_ms)
                state.best_ms = mean if state.best_ms is None else min(mean, state.best_ms)
                state.valid = True
        self.database.flush()
        self.log.append(kernel, timings)
        if state.search is not None:
            state.search.learn(timings, self._cost_model)
        state.rounds += 1
        state.in_flight = False

    def _note(self) -> str:
        tuned = sum(state.valid for state in self._states)
        failed = sum(self.log.failures.values())
        return f"{tuned}/{len(self._states)} tasks tuned" + (f", {failed} failed trials" if failed else "")


def tune(plan: Plan, endpoint: Endpoint, folder: Path, trials: int, seed: int = 0, batch: int = BATCH) -> TuningReport:
    """Tunes a plan's tasks; refuses to run beside another tuning of the same target.

    Raises:
        StorageError: another process is tuning this target, or the folder is not writable.
        DeviceError: the device went away and did not come back.
    """
    lock = FileLock(database_folder(folder).parent / "tuning.lock")
    try:
        with lock.acquire(timeout=0):
            return Engine(plan, endpoint, folder, trials, batch, seed).run()
    except Timeout as error:
        raise StorageError(f"another process is tuning in {folder}; wait for it or stop it") from error
