"""The tuning engine: spends a budget of trials on tuning tasks, overlapping search, builds and timing on all devices.

Each trial is written to disk as soon as it is timed, whatever the rest of its round is doing: a killed run loses only
the trials in flight, and makes progress even if it is killed repeatedly.
:mod:`tvmfbnet.autotune.task_scheduler` picks the task of the next round.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tvmfbnet.autotune.builder_pool import BuilderPool, BuildResult
from tvmfbnet.autotune.candidate import Search
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.database_folders import TRIALS, folder_to_write
from tvmfbnet.autotune.engine_options import DEFAULTS, ROUNDS_AHEAD, Budget, EngineOptions, TuningReport, builders_for
from tvmfbnet.autotune.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.autotune.machines import is_templated
from tvmfbnet.autotune.plan import Plan, TuningTask
from tvmfbnet.autotune.task_scheduler import TaskState, next_task
from tvmfbnet.autotune.template_search import SEEDS, TemplateSearch
from tvmfbnet.autotune.templates import machine_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.autotune.trial_runner import Activity, News, OpenRound, RoundRunner, StoppedError, start_worker
from tvmfbnet.interrupts import raise_if_interrupted, undisturbed
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.progress import Reporter, progress, say
from tvmfbnet.rpc.device_context import ask_context
from tvmfbnet.rpc.remote import RemoteWorker, worker_for
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.rpc.tracker import Endpoint, query_tracker
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.definition import ResolvedTarget

# The progress line is refreshed at least this often, seconds.
_TOLD_EVERY = 1.0


class Engine:
    """Tunes the tasks of a plan on the devices of an endpoint until the budget is spent.

    Args:
        plan: the tasks.
        endpoint: where the devices are.
        database: where schedules go; the log of trials lies beside it.
        budget: when to stop.
        options: seed, size of rounds and so on.
    """

    def __init__(
        self,
        plan: Plan,
        endpoint: Endpoint,
        database: TuningDatabase,
        budget: Budget,
        options: EngineOptions = DEFAULTS,
    ) -> None:
        self.plan, self.endpoint, self.budget, self.options = plan, endpoint, budget, options
        self.batch, self.seed = options.batch, options.seed
        self.target: ResolvedTarget = plan.target
        self._compiled_for = plan.target.for_tvm()
        self.database = database
        self.log = TrialLog(database.folder / TRIALS)
        self.log.count_only_templates(plan.gpu_templated)
        self._cost_model: Any = None
        self._states = [self._restore(task) for task in plan.tasks]
        self._activity = Activity()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._in_flight: list[OpenRound] = []
        # On a simulated device rounds are recorded in the order they began, whichever ends first: what is tried next
        # must not depend on how fast this machine is.
        self._in_order = plan.target.is_simulated
        self._early: list[News] = []
        self._fastest = 0.0

    def _restore(self, task: TuningTask) -> TaskState:
        key = task.kernel.key
        # A lost schedule counts as none, however fast it was: the task is tuned again.
        best_ms = self.log.best_ms.get(key) if self.database.holds(task.kernel) else None
        return TaskState(task, best_ms, -(-self.log.spent[key] // self.batch))

    def _trained_cost_model(self) -> TrialCostModel:
        cost_model = TrialCostModel(machine_of(self._compiled_for), self.seed, self.options.sources)
        for trials in self.log.templated.values():
            for trial in trials:
                cost_model.add(trial.shape, trial.knobs, trial.best_ms)
        return cost_model

    def _spent(self) -> int:
        return sum(self.log.spent[state.task.kernel.key] for state in self._states)

    def run(self) -> TuningReport:
        """Tunes until every task has a valid schedule (or was given up) and the budget is spent."""
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
        before, aim = self._spent(), self._aim()
        with ExitStack() as stack:
            reporter = stack.enter_context(progress("tuning trials", aim, done=before))
            folder = stack.enter_context(scratch_folder())
            pool = stack.enter_context(
                BuilderPool(self.target, builders_for(aim - before), folder, self.options.executor)
            )
            workers: queue.Queue[RemoteWorker] = queue.Queue()
            for _ in range(devices):
                worker = stack.enter_context(worker_for(self.target, self.endpoint))
                threading.Thread(target=start_worker, args=(worker, workers), daemon=True).start()
            runner = RoundRunner(self.target, self.endpoint, pool, workers, folder, self._activity)
            try:
                self._loop(runner, devices + ROUNDS_AHEAD, reporter, started)
            finally:  # also after a Ctrl-C, or when a round found no device: keep what other rounds timed
                runner.stop()
                with undisturbed(), suppress(queue.Empty):
                    while self._early:
                        self._take(self._early.pop(0))
                    while True:
                        self._take(self._news.get_nowait())

    def _loop(self, runner: RoundRunner, most: int, reporter: Reporter, started: float) -> None:
        cost_model = self._trained_cost_model()
        while True:
            in_time = self.budget.seconds is None or time.monotonic() - started < self.budget.seconds
            state = self._choose(in_time) if len(self._in_flight) < most else None
            if state is not None:
                self._start(state, runner, cost_model)
            elif self._in_flight:
                waited = time.monotonic()
                with suppress(queue.Empty):
                    news = self._next_news()
                    self._activity.add("wait", time.monotonic() - waited)
                    if news.error is not None:
                        raise news.error
                    with undisturbed():
                        if self._in_order and news.told_by is not self._in_flight[0]:
                            self._early.append(news)
                        else:
                            self._take(news)
            else:
                return
            spent = self._spent()
            reporter.retotal(self._aim())
            reporter.update(spent, self._note(started))
            if self.options.estimate is not None and in_time:
                self.options.estimate.update(self._activity.trials, self._aim() - spent)

    def _next_news(self) -> News:
        """What rounds tell, in order where that counts; queue.Empty if none did for a while."""
        for news in self._early:
            if news.told_by is self._in_flight[0]:
                self._early.remove(news)
                return news
        return self._news.get(timeout=_TOLD_EVERY)

    def _aim(self) -> int:
        """The final number of trials: the budget, or more where first rounds are still due."""
        due = sum(self.batch for state in self._states if not state.valid and not state.rounds and not state.in_flight)
        return max(self.budget.trials, self._spent() + sum(opened.pending for opened in self._in_flight) + due)

    def _trials_left(self) -> int:
        return self.budget.trials - self._spent() - sum(opened.pending for opened in self._in_flight)

    def _choose(self, in_time: bool) -> TaskState | None:
        return next_task(self._states, in_time and self._trials_left() > 0)

    def _start(self, state: TaskState, runner: RoundRunner, cost_model: TrialCostModel) -> None:
        began = time.monotonic()
        if state.search is None:
            state.search = self._search_of(state.task, cost_model)
        # A first round is always complete; later rounds are cut to the budget.
        candidates = state.search.propose(min(self.batch, self._trials_left()) if state.valid else self.batch)
        raise_if_interrupted()  # a library may have mistaken the Ctrl-C for a kernel that cannot be scheduled
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
        """A round's thread; it sends its results to the main thread."""
        try:
            runner.time(opened.candidates, builds, lambda place, timing: self._news.put(News(opened, place, timing)))
            self._news.put(News(opened))
        except StoppedError:
            pass
        except BaseException as error:
            self._news.put(News(opened, error=error))

    def _search_of(self, task: TuningTask, cost_model: TrialCostModel) -> Search:
        shape = shape_of(task.kernel.mod)
        if shape is not None and is_templated(shape, cost_model.machine):
            # If the best schedule was lost with a damaged file, tried knobs may be tried again.
            is_lost = task.kernel.key in self.log.best_ms and not self.database.holds(task.kernel)
            tried = [] if is_lost else [trial.knobs for trial in self.log.templated[task.kernel.key]]
            seeds = self.log.seeds(task.kernel.key, shape, SEEDS) if not tried else []
            return TemplateSearch(task.kernel, shape, cost_model, tried, self.batch, self.seed, seeds)
        if self._cost_model is None:
            self._cost_model = new_cost_model()
        return EvolutionSearch(task.kernel, self._compiled_for, self.database, self._cost_model, self.batch, self.seed)

    def _take(self, news: News) -> None:
        if news.timing is not None:
            self._record(news.told_by, news.place, news.timing)
        elif news.error is None:
            self._finish(news.told_by)

    def _record(self, opened: OpenRound, place: int, timing: KernelTiming) -> None:
        """Writes one trial, to the database first: the log must never count a schedule that the database lacks."""
        state, candidate = opened.state, opened.candidates[place]
        kernel, shape = state.task.kernel, state.search.shape if state.search is not None else None
        opened.timings[place] = timing
        if timing.best_ms is not None:
            is_best = state.best_ms is None or timing.best_ms < state.best_ms
            # The log gets every trial; TVM's database, slow to open, only those that may be used. Evolution breeds from
            # all of them.
            if is_best or shape is None:
                self.database.add(candidate, kernel, self._compiled_for, timing.best_ms)
                self.database.flush()
            state.best_ms = timing.best_ms if is_best else state.best_ms
        self.log.append(kernel, shape, [candidate.knobs], [timing])

    def _finish(self, finished: OpenRound) -> None:
        """Ends a round that is fully recorded; its search learns from it."""
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
        notes = [f"{activity.trials / seconds:.1f} trials/s"]
        notes += [f"{untuned} kernel(s) still without a schedule"] if untuned else []
        notes += [f"best {self._fastest:.0f} GFLOP/s"] if self._fastest else []
        notes.append(f"{activity.busy} device(s) busy")  # at this moment; shown again at least every second
        if self.log.failures:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.log.failures.most_common())
            notes.append(f"failed: {kinds}")
        if activity.faults:
            notes.append(f"{activity.faults.total()} device fault(s)")
        return ", ".join(notes)


def tune(
    plan: Plan,
    endpoint: Endpoint,
    folder: Path,
    budget: Budget,
    options: EngineOptions = DEFAULTS,
    context: Context | None = None,
) -> TuningReport:
    """Tunes a plan's tasks; first waits for any other process that tunes or measures the same target.

    Args:
        plan: the tasks.
        endpoint: where the devices are.
        folder: the target's folder in ``tuning_logs``.
        budget: when to stop.
        options: seed, size of rounds and so on.
        context: of the endpoint's devices; None asks them.

    Raises:
        StorageError: the folder is not writable.
        DeviceError: the device disappeared and did not come back, or does not match the target.
    """
    with target_lock(folder):
        if context is None:
            context, endpoint = ask_context(plan.target, endpoint)
        database = TuningDatabase(folder_to_write(folder, context), repair=True)
        return Engine(plan, endpoint, database, budget, options).run()
