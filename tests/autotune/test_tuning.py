"""Nothing that tuning found is lost: torn files, kill -9, two processes on one target."""

import json
import os
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import typer
from brief_target import write_host
from forked import UNHEARD, run_command, start_command

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.cli.tune import parse_duration
from tvmfbnet.errors import UserError
from tvmfbnet.latency.repository import load_table
from tvmfbnet.latency.trial_times import best_times
from tvmfbnet.rpc.session import KernelTiming
from tvmfbnet.space.choice import choose_parts

SMALL_SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 4, stride: 1}
stages:
  - {channels: 4, layers: 1, stride: 1}
blocks: [k3_e1, skip]
last_channels: 8
"""


def test_a_glob_chooses_blocks_and_one_that_matches_nothing_is_refused(tiny_space):
    chosen = choose_parts(tiny_space, "k3_*")
    assert {part.block for part in chosen if part.part == "block"} == {"k3_e1", "k3_e3"}
    with pytest.raises(UserError, match="no block of space"):
        choose_parts(tiny_space, "k9_*")


def test_a_torn_last_line_of_the_tuning_database_is_cut_off_by_a_writer_alone(tmp_path):
    workloads, records = tmp_path / "database_workload.json", tmp_path / "database_tuning_record.json"
    workloads.write_text("")
    torn = "[0, [[], [0.1]]]\n[0, [["
    records.write_text(torn)
    TuningDatabase(tmp_path)
    assert (workloads.read_text(), records.read_text()) == ("", torn)
    TuningDatabase(tmp_path, repair=True)
    assert records.read_text() == "[0, [[], [0.1]]]\n"
    assert workloads.read_text() == "null\n", "the place of a workload that is gone is not given to another"


class Kernel:
    """As much of a kernel as the log looks at."""

    key, name = "b", "conv"


def test_a_torn_trial_log_loses_only_its_torn_line(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps({"task": "a", "kind": "", "best_ms": 2.0}) + "\n" + '{"task": "a", "ki')
    log = TrialLog(path)
    assert log.spent["a"] == 1
    log.append(Kernel, None, [None, None], [KernelTiming((1.0, 3.0)), KernelTiming(error="boom", kind="build")])
    again = TrialLog(path)
    assert (again.spent["a"], again.spent["b"], again.failures["build"]) == (1, 2, 1)
    assert again.best_ms == {"a": 2.0, "b": 1.0}
    assert json.loads(path.read_text().splitlines()[-1])["error"] == "boom"


def test_the_trials_of_some_kernels_are_counted(tmp_path):
    log = TrialLog(tmp_path / "trials.jsonl")
    log.spent.update(once=8, twice=16)
    assert log.trials_of(SimpleNamespace(key=key) for key in ("once", "twice", "never")) == 24


def test_whoever_reads_the_log_without_tvm_finds_the_same_times(tmp_path):
    path = tmp_path / "trials.jsonl"
    records = [
        ("a", "", 2.0),
        ("a", "", 1.5),
        ("a", "build", 1.0),
        ("b", "", 0.0),
        ("c", "", float("inf")),
        ("d", "", 3),
    ]
    lines = [json.dumps({"task": task, "kind": kind, "best_ms": ms}) for task, kind, ms in records]
    path.write_text("\n".join([*lines, '{"task": "e", "ki']))
    assert best_times(path) == TrialLog(path).best_ms == {"a": 1.5, "d": 3.0}


def test_the_log_gives_back_the_knobs_that_were_tried(tmp_path):
    path, shape, knobs = tmp_path / "trials.jsonl", KernelShape("conv", 4, 4, 16, group=16), Knobs(1, 2, 16, 16)
    TrialLog(path).append(Kernel, shape, [knobs], [KernelTiming((1.5,))])
    (trial,) = TrialLog(path).templated["b"]
    assert (trial.shape, trial.knobs, trial.best_ms) == (shape, knobs, 1.5)


def test_a_kernel_gets_the_best_ways_of_those_that_differ_in_their_epilogue_alone(tmp_path):
    log = TrialLog(tmp_path / "trials.jsonl")
    plain = KernelShape("conv", 8, 8, 16, reduction=32, group=16, extra=1)
    ways = [Knobs(1, columns, 16, 16) for columns in (1, 2, 4, 8)]
    times = [KernelTiming((latency,)) for latency in (4.0, 2.0, 3.0)] + [KernelTiming(error="boom", kind="build")]
    log.append(Kernel, plain, ways, times)
    assert log.seeds("new", replace(plain, extra=3), 2) == [ways[1], ways[2]]
    assert log.seeds("new", replace(plain, extra=3), 9) == [ways[1], ways[2], ways[0]]
    assert log.seeds("new", replace(plain, reduction=64), 2) == []
    assert log.seeds(Kernel.key, plain, 2) == []  # its own are known


def test_the_rate_of_a_target_leaves_out_the_pauses_between_runs(tmp_path):
    path, start = tmp_path / "trials.jsonl", datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(seconds=index / 4 + (7200 if index >= 50 else 0)) for index in range(100)]
    lines = [json.dumps({"task": "a", "kind": "", "best_ms": 1.0, "time": time.isoformat()}) for time in times]
    path.write_text("".join(f"{line}\n" for line in lines))
    assert TrialLog(path).trials_per_second() == pytest.approx(4.0), "98 gaps of a quarter of a second"


@pytest.mark.parametrize(
    "bad",
    [
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"task": "a"}',
        b'{"task": "a", "kind": "", "best_ms": "x"}',
        b'{"task": "a", "kind": "", "best_ms": 1.0, "knobs": {"rows": 1e400}, "shape": {}}',
        b'{"task": "a", "kind": "", "best_ms": 1' + b"0" * 400 + b"}",
        b'{"task": "a", "kind": "", "best_ms": 1.0, "time": "999999-01-01"}',
    ],
)
def test_a_bad_line_of_the_trial_log_is_passed_over_and_named(tmp_path, capsys, bad):
    path = tmp_path / "trials.jsonl"
    good = json.dumps({"task": "a", "kind": "", "best_ms": 2.0}).encode() + b"\n"
    path.write_bytes(good + bad + b"\n" + good)
    log = TrialLog(path)
    assert (log.spent["a"], log.best_ms["a"]) == (2, 2.0)
    assert "line 2 is no valid trial" in capsys.readouterr().err


@pytest.mark.parametrize("impossible", ["0.0", "NaN", "Infinity", "-1.0"])
def test_a_trial_without_a_time_of_this_world_has_failed(tmp_path, impossible):
    path, shape, knobs = tmp_path / "trials.jsonl", KernelShape("conv", 4, 4, 16, group=16), Knobs(1, 2, 16, 16)
    TrialLog(path).append(Kernel, shape, [knobs], [KernelTiming((1.5,))])
    path.write_text(path.read_text().replace('"best_ms": 1.5', f'"best_ms": {impossible}'))
    log = TrialLog(path)
    assert (log.spent["b"], log.failures.total(), dict(log.best_ms)) == (1, 1, {})
    assert [trial.best_ms for trial in log.templated["b"]] == [None]
    assert KernelTiming.of([1.0, float(impossible)]).best_ms is None and KernelTiming.of([1.0]).best_ms == 1.0


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5min", 90), ("2h", 7200)])
def test_a_duration_is_read_with_its_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-3min", "2 days"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(typer.BadParameter, match=r"not a duration|no time at all"):
        parse_duration(text)


@pytest.mark.rpc
@pytest.mark.slow
def test_two_tunings_of_one_target_share_the_work_and_repeat_nothing(tmp_path):
    space, logs = tmp_path / "small.yaml", tmp_path / "logs"
    space.write_text(SMALL_SPACE)
    command = ["tune", "--target", str(write_host(tmp_path)), "--space", str(space)]
    command += ["--trials", "20", "--tuning-logs", str(logs), "--json"]
    both = [start_command(command, out=(str(tmp_path / name), os.devnull)) for name in ("first", "second")]
    assert [process.wait(400) for process in both] == [0, 0]
    outcomes = [json.loads((tmp_path / name).read_text()) for name in ("first", "second")]
    assert sorted(outcome["new_trials"] == 0 for outcome in outcomes) == [False, True]
    lines = [json.loads(line) for line in (logs / "host" / "database" / "trials.jsonl").read_text().splitlines()]
    tried = [(line["task"], json.dumps(line["knobs"])) for line in lines if line["knobs"]]
    assert len(tried) == len(set(tried)) >= 15
    assert all(outcome["trials"] == len(lines) for outcome in outcomes)


@pytest.mark.rpc
@pytest.mark.slow
def test_tuning_that_was_killed_goes_on_and_loses_nothing(tmp_path):
    space, logs = tmp_path / "small.yaml", tmp_path / "logs"
    space.write_text(SMALL_SPACE)
    command = ["tune", "--target", str(write_host(tmp_path)), "--space", str(space)]
    command += ["--trials", "24", "--tuning-logs", str(logs), "--json"]
    trials = logs / "host" / "database" / "trials.jsonl"
    first = start_command(command, out=UNHEARD)
    deadline = time.monotonic() + 240
    while not trials.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = trials.read_text().splitlines()
    assert before, "nothing was tuned before the kill"
    assert (logs / "host" / "kernels.json").exists(), "written before the first trial"
    done = run_command(command)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    after = trials.read_text().splitlines()
    assert after[: len(before)] == before
    assert outcome["trials"] == len(after) > outcome["new_trials"]
    assert outcome["untuned"] == [] and outcome["measured_now"] == outcome["parts"]
    table = load_table("host", logs)
    assert set(table.kernel_ms) == set(table.cells), "the log and kernels.json tell what each tuned part's kernels take"
    assert json.loads(after[0])["task"] in (logs / "host" / "kernels.json").read_text()
    again = json.loads(run_command(command).stdout)
    assert again["new_trials"] == 0 and again["measured_now"] == 0
