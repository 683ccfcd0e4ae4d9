"""kill -9 at the worst moments: nothing that was timed is lost, and work advances however short each life is."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from brief_target import brief_target
from forked import UNHEARD, run_command, start_command

from tvmfbnet.latency.journal import Journal

SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 4, stride: 1}
stages:
  - {channels: 4, layers: 3, stride: 1}
blocks: [k3_e1, skip]
last_channels: 8
"""
# Many short passes, so that a kill meets the timing and not what comes before it.
PASSES, RUNS, TRIALS, BATCH = 14, 4, 24, 3
TARGET = brief_target(chain_runs=RUNS, visits=PASSES)

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    (folder / "small.yaml").write_text(SPACE)
    (folder / "mine.yaml").write_text(TARGET)
    return folder


def command(place, logs, *words):
    given = ["--target", str(place / "mine.yaml"), "--space", str(place / "small.yaml"), "--tuning-logs", str(logs)]
    return [*words, *given]


def lines(path):
    """The whole lines of a file that is being written."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def more_than(path, count):
    return lambda: len(lines(path)) > count


def live_until(started, enough, signal_number=signal.SIGKILL):
    """Lets a command live until something has happened, then ends it alone: its children have to see to themselves."""
    process = start_command(started, out=UNHEARD)
    deadline = time.monotonic() + 400
    while not enough():
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal_number)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"left running: {alive}"
    return process.returncode


def tuning(place, logs):
    return command(place, logs, "tune", "--trials", str(TRIALS), "--batch", str(BATCH))


def finish(started):
    done = run_command([*started, "--json"])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tuned(place):
    """Logs of a tuning whose every life ended with its first new trial, and what the last life said."""
    logs = place / "logs"
    trials = logs / "mine" / "database" / "trials.jsonl"
    tune = tuning(place, logs)
    before = []
    for _ in range(2):
        live_until(tune, more_than(trials, len(before)))
        after = lines(trials)
        assert after[: len(before)] == before
        before = after
    kept = {path: path.stat().st_mtime_ns for path in (logs / "mine" / "lowered").rglob("*.json")}
    visits = logs / "mine" / "visits.jsonl"
    live_until(tune, more_than(visits, 3))
    assert lines(trials)[: len(before)] == before and len(lines(trials)) == TRIALS
    assert kept and kept == {path: path.stat().st_mtime_ns for path in (logs / "mine" / "lowered").rglob("*.json")}
    return logs


def test_a_tuning_killed_at_its_every_first_trial_meets_its_budget_and_loses_none(tuned):
    trials = [json.loads(line) for line in lines(tuned / "mine" / "database" / "trials.jsonl")]
    tried = [(trial["task"], json.dumps(trial["knobs"])) for trial in trials if trial["knobs"]]
    assert len(trials) == TRIALS and len(set(tried)) == len(tried)


@pytest.fixture(scope="module")
def measured(place, tuned):
    """The same logs, their blocks timed by a life that was killed and one that was not: what was seen meanwhile."""
    journal, visits = tuned / "mine" / "latency.jsonl", tuned / "mine" / "visits.jsonl"
    first = lines(visits)
    assert len(first) > 3 and not lines(journal)
    live_until(tuning(place, tuned), more_than(visits, len(first) + 2))
    second = lines(visits)
    return SimpleNamespace(logs=tuned, first=first, second=second, outcome=finish(tuning(place, tuned)))


def test_killed_while_blocks_are_timed_it_loses_the_pass_in_flight_at_most(measured):
    journal, visits = measured.logs / "mine" / "latency.jsonl", measured.logs / "mine" / "visits.jsonl"
    assert measured.second[: len(measured.first)] == measured.first
    assert [line for line in measured.second if b"nets_ms" in line]
    outcome = measured.outcome
    assert outcome["new_trials"] == 0 and outcome["measured_now"] == outcome["parts"]
    assert not visits.exists() and not list((measured.logs / "mine").glob("carriers-*"))
    measured_parts = [item for item in Journal(journal).read() if not item.arch]
    assert len(measured_parts) == len({item.part for item in measured_parts}) == outcome["parts"]
    # As in a run that nobody killed, each pools all passes, those of the killed runs included.
    assert all((item.n + item.outliers) % (PASSES * RUNS) == 0 and item.tries == PASSES for item in measured_parts)


def test_what_is_measured_is_not_measured_again(place, measured):
    journal = measured.logs / "mine" / "latency.jsonl"
    before = lines(journal)
    again = finish(tuning(place, measured.logs))
    assert (again["new_trials"], again["measured_now"]) == (0, 0) and lines(journal) == before


def test_killed_while_whole_nets_are_timed_it_loses_the_pass_in_flight_at_most(place, measured):
    journal, visits = measured.logs / "mine" / "latency.jsonl", measured.logs / "mine" / "visits.jsonl"
    before = lines(journal)
    validate = command(place, measured.logs, "latency", "validate", "-n", "5")
    live_until(validate, more_than(visits, 4))
    seen = lines(visits)
    live_until(validate, lambda: len(lines(visits)) > len(seen) + 4 or lines(visits)[: len(seen)] != seen)
    assert lines(visits)[: len(seen)] == seen
    finish(validate)
    assert lines(journal)[: len(before)] == before and not visits.exists()
    nets = [item for item in Journal(journal).read() if item.arch]
    assert len(nets) == len({item.arch for item in nets}) == 5
    assert all(item.tries == PASSES and item.n + item.outliers == PASSES * 3 for item in nets)


def test_a_ctrl_c_ends_a_tuning_within_seconds_and_blames_no_kernel(place, tmp_path):
    trials = tmp_path / "mine" / "database" / "trials.jsonl"
    tune = command(place, tmp_path, "tune", "--trials", "200")
    process = subprocess.Popen(
        [sys.executable, "-m", "tvmfbnet.cli.main", *tune],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while len(lines(trials)) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    before, began = lines(trials), time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert (
        said.endswith(b"interrupted: stopping (up to 3 s); run the same command to resume\n") and b"Trace" not in said
    )
    after = [json.loads(line) for line in lines(trials)]
    assert len(after) >= len(before) and not any(trial["kind"] for trial in after)
