"""The engine spends its budget where it is meant to, on every device there is, through any executor."""

import json
import math
import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from brief_target import brief_host

from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.engine import Engine, tune
from tvmfbnet.autotune.engine_options import Budget, EngineOptions
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.templates import registers_of, shape_of
from tvmfbnet.autotune.transfer import TransferSource
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.pipeline.tuning import forecast, plan_space
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.service import Service
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.rpc.tracker import Endpoint, query_tracker
from tvmfbnet.space.registry import load_space

SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 8, stride: 1}
stages:
  - {channels: 16, layers: 1, stride: 1}
blocks: [k3_e3, skip]
last_channels: 16
"""

# Candidates of a round: as few as the tests need, as each is built and timed.
ROUND = 3
# Of the tuning that several tests look at: enough to know a rate.
BUDGET = 32

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return plan_space(load_space(str(path)), brief_host())


@contextmanager
def fleet(devices):
    """A tracker and several servers under one key; gives the endpoint and the servers."""
    endpoint = Endpoint("127.0.0.1", free_port(), "host")
    with ExitStack() as stack:
        tracker = Service(["tracker", "--host", "127.0.0.1", "--port", str(endpoint.port)])
        stack.callback(tracker.stop)
        tracker.wait_until_ready()
        arguments = ["--host", "127.0.0.1", "--tracker", endpoint.address, "--key", "host"]
        servers = [Service(["server", "--port", str(free_port()), *arguments]) for _ in range(devices)]
        for server in servers:
            stack.callback(server.stop)
            server.wait_until_ready()
        while query_tracker(endpoint.host, endpoint.port).serving("host") < devices:
            time.sleep(0.1)
        yield endpoint, servers


@pytest.fixture(scope="module")
def tuned(plan, tmp_path_factory):
    """A tuning whose budget is no whole number of rounds: its folder, report, and what its live view said."""
    notes, note, folder = [], Engine._note, tmp_path_factory.mktemp("tuned")
    with fleet(1) as (endpoint, _), pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "_note", lambda engine, started: notes.append(note(engine, started)) or notes[-1])
        report = tune(plan, endpoint, folder, Budget(BUDGET), EngineOptions(batch=ROUND))
    return SimpleNamespace(folder=folder, report=report, notes=notes)


def test_several_devices_and_a_foreign_executor_share_the_trials(plan, tmp_path):
    with fleet(2) as (endpoint, _), ThreadPoolExecutor(2) as executor:
        budget = ROUND * (len(plan.tasks) + 2)
        report = tune(plan, endpoint, tmp_path, Budget(budget), EngineOptions(batch=ROUND, executor=executor))
    assert report.untuned == () and report.device_faults == {}
    assert report.trials == budget
    log = TrialLog(tmp_path / "database" / "trials.jsonl")
    assert all(log.spent[task.kernel.key] for task in plan.tasks)
    assert sum(log.spent.values()) == report.trials and not report.failures


def test_a_device_that_dies_costs_no_trial_and_counts_as_no_failure(plan, tmp_path):
    with fleet(2) as (endpoint, servers):
        log_path = tmp_path / "database" / "trials.jsonl"

        def kill_one_when_it_is_busy():
            while not log_path.exists():
                time.sleep(0.01)
            os.killpg(servers[0].process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one_when_it_is_busy)
        killer.start()
        report = tune(plan, endpoint, tmp_path, Budget(ROUND * len(plan.tasks)), EngineOptions(batch=ROUND))
        killer.join()
    assert report.untuned == ()
    assert report.failures == {}
    spent = TrialLog(log_path).spent
    assert all(spent[task.kernel.key] for task in plan.tasks)


def test_out_of_time_every_task_still_gets_its_first_round_and_no_more(plan, tmp_path):
    with fleet(1) as (endpoint, _):
        report = tune(plan, endpoint, tmp_path, Budget(10_000, seconds=0.001), EngineOptions(batch=ROUND))
    assert report.untuned == ()
    assert report.trials <= ROUND * len(plan.tasks)


class Interrupted(Engine):
    """An engine that a Ctrl-C meets while trials were timed that it has not recorded yet."""

    def _note(self, started):
        if self._spent() >= 1:
            while self._news.qsize() < 4:
                time.sleep(0.01)
            self.recorded, self.known = self._spent(), self._news.qsize()
            raise KeyboardInterrupt
        return super()._note(started)


def test_what_was_timed_when_a_ctrl_c_comes_is_recorded_before_leaving(plan, tmp_path):
    with fleet(1) as (endpoint, _):
        database = TuningDatabase(tmp_path / "database", repair=True)
        engine = Interrupted(plan, endpoint, database, Budget(8 * len(plan.tasks)))
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine.run()
    log = TrialLog(tmp_path / "database" / "trials.jsonl")
    # One piece of news may be that a round has ended.
    assert sum(log.spent.values()) >= engine.recorded + engine.known - 1 > engine.recorded
    assert not log.failures and time.monotonic() - began < 120


def test_the_live_view_shows_a_device_as_busy_while_it_times(tuned):
    busy = [note for note in tuned.notes if "1 device(s) busy" in note]
    assert len(busy) >= tuned.report.trials / 3, tuned.notes


def test_the_budget_is_met_to_the_trial(plan, tuned, tmp_path):
    assert tuned.report.trials == BUDGET > ROUND * len(plan.tasks) and BUDGET % ROUND
    shutil.copytree(tuned.folder, tmp_path / "again")
    with fleet(1) as (endpoint, _):
        again = tune(plan, endpoint, tmp_path / "again", Budget(BUDGET + 1), EngineOptions(batch=ROUND))
    assert (again.trials, again.new_trials) == (BUDGET + 1, 1)


def first_round(folder, key):
    lines = map(json.loads, (folder / "database" / "trials.jsonl").read_text().splitlines())
    return [Knobs(**line["knobs"]) for line in lines if line["task"] == key][:8]


@pytest.fixture(scope="module")
def siblings(tmp_path_factory):
    """A plan of two convolutions, one of which has a residual to add: a stage's layers of stride 2 and 1."""
    path = tmp_path_factory.mktemp("space") / "siblings.yaml"
    path.write_text(SPACE.replace("{channels: 16, layers: 1, stride: 1}", "{channels: 8, layers: 2, stride: 2}"))
    plan = plan_space(load_space(str(path)), brief_host())
    by_anchor = defaultdict(list)
    for task in plan.tasks:
        shape = shape_of(task.kernel.mod)
        if shape is not None and shape.kind == "conv":
            by_anchor[shape.anchor].append(task)
    (pair,) = [tasks for tasks in by_anchor.values() if len(tasks) == 2]
    assert len({shape_of(task.kernel.mod).extra for task in pair}) == 2
    return replace(plan, tasks=tuple(pair))


def test_the_first_round_holds_the_best_ways_of_a_kernel_that_differs_in_its_epilogue_alone(siblings, tmp_path):
    one, other = siblings.tasks
    with fleet(1) as (endpoint, _):
        tune(replace(siblings, tasks=(one,)), endpoint, tmp_path, Budget(8))
        best = TrialLog(tmp_path / "database" / "trials.jsonl").seeds(other.kernel.key, shape_of(other.kernel.mod), 2)
        tune(siblings, endpoint, tmp_path, Budget(1))
    assert len(best) == 2 and first_round(tmp_path, other.kernel.key)[:2] == best


def test_another_targets_trials_choose_the_first_round(siblings, plan, tuned, tmp_path):
    path = tuned.folder / "database" / "trials.jsonl"
    trials = tuple(trial for trials in TrialLog(path).templated.values() for trial in trials)
    before = path.read_bytes()
    with fleet(1) as (endpoint, _):
        registers = registers_of(plan.target.for_tvm())
        sources = [TransferSource("other", registers, trials)]
        only = replace(siblings, tasks=siblings.tasks[:1])
        tune(only, endpoint, tmp_path / "own", Budget(1), EngineOptions(sources=sources))
    assert path.read_bytes() == before
    (task,) = only.tasks
    shape, cost_model = shape_of(task.kernel.mod), TrialCostModel(registers, sources=sources)
    ways = all_knobs(shape, registers)
    order = np.argsort(cost_model.slowness(cost_model.rows(shape, ways)), kind="stable")
    assert first_round(tmp_path / "own", task.kernel.key)[:6] == [ways[index] for index in order[:6]]


def test_a_forecast_counts_what_is_left_and_names_tasks_that_get_too_little(plan, tuned, tmp_path):
    target = plan.target
    tasks = len(plan.tasks)
    fresh = forecast(plan.space, target, TuneOptions(trials=1), tmp_path)
    assert (fresh.tuning_tasks, fresh.trials, fresh.untouched) == (tasks, 4 * tasks, tasks)
    assert (fresh.asked, fresh.first_rounds) == (1, 4 * tasks)
    assert f"leaves 1 trials, but up to {4 * tasks} are done all the same" in fresh.describe()
    enough = forecast(plan.space, target, TuneOptions(trials=8 * tasks), tmp_path)
    assert (enough.first_rounds, enough.batch) == (8 * tasks, 8)
    small = forecast(plan.space, target, TuneOptions(trials=1, batch=2), tmp_path)
    assert small.first_rounds == small.trials == 2 * tasks and "a first round of 2 " in small.describe()
    assert "--blocks" in fresh.describe() and "--arch" in fresh.describe()
    assert "built on this machine" in fresh.estimated_from and not fresh.rate_is_measured
    assert "all the same" not in forecast(plan.space, target, root=tmp_path).describe()
    shutil.copytree(tuned.folder, tmp_path / "host")
    assert forecast(plan.space, target, TuneOptions(trials=1), tmp_path).trials == 0
    assert forecast(plan.space, target, TuneOptions(trials=1), tmp_path).estimated_from == "this target's trials so far"
    half = forecast(plan.space, target, TuneOptions(trials=1, measure_share=0.5), tmp_path)
    assert half.measured_blocks == math.ceil(plan.blocks / 2) < fresh.measured_blocks == plan.blocks
    assert half.estimated_seconds < forecast(plan.space, target, TuneOptions(trials=1), tmp_path).estimated_seconds
    assert f"({half.measured_blocks} of them to be timed)" in half.describe()
    assert forecast(plan.space, target, TuneOptions(trials=5, more=True), tmp_path).trials == 5


def test_a_kernel_whose_schedule_was_lost_is_tuned_again_although_every_way_was_tried(plan, tmp_path):
    database = TuningDatabase(tmp_path / "database", repair=True)
    registers = registers_of(plan.target.for_tvm())
    templated = [task for task in plan.tasks if shape_of(task.kernel.mod) is not None]
    task = min(templated, key=lambda task: len(all_knobs(shape_of(task.kernel.mod), registers)))
    shape = shape_of(task.kernel.mod)
    every = all_knobs(shape, registers)
    TrialLog(database.folder / "trials.jsonl").append(task.kernel, shape, every, [KernelTiming((1.0,))] * len(every))
    engine = Engine(plan, Endpoint("127.0.0.1", 1, "none"), database, Budget(1))
    assert engine._search_of(task, engine._trained_cost_model()).propose(8)
