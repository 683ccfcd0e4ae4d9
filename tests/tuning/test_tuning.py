"""Nothing that tuning found is lost: torn files, kill -9, two processes on one target."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.tuning.engine import tune
from tvmfbnet.tuning.metaschedule import TuningDatabase
from tvmfbnet.tuning.plan import choose_parts
from tvmfbnet.tuning.trials import TrialLog

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


def test_torn_lines_of_the_tuning_database_are_dropped(tmp_path):
    workloads, records = tmp_path / "database_workload.json", tmp_path / "database_tuning_record.json"
    workloads.write_text("")
    records.write_text("[0, [[], [0.1]]]\n[0, [[")
    TuningDatabase(tmp_path, repair=True)
    assert records.read_text() == ""  # the whole line names a workload that is not there


def test_a_torn_trial_log_loses_only_its_torn_line(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps({"task": "a", "kind": ""}) + "\n" + '{"task": "a", "ki')
    log = TrialLog(path)
    assert log.spent["a"] == 1

    class Kernel:
        key, name = "b", "conv"

    from tvmfbnet.devices.remote import KernelTiming

    log.append(Kernel, [KernelTiming((1.0,)), KernelTiming(error="boom", kind="build")])
    again = TrialLog(path)
    assert (again.spent["a"], again.spent["b"], again.failures["build"]) == (1, 2, 1)


def test_a_second_tuning_of_one_target_is_refused_at_once(tmp_path):
    with FileLock(tmp_path / "tuning.lock"), pytest.raises(StorageError, match="another process is tuning"):
        tune(None, None, tmp_path, trials=1)  # the lock is taken before anything else is looked at


@pytest.mark.rpc
@pytest.mark.slow
def test_tuning_that_was_killed_goes_on_and_loses_nothing(tmp_path):
    space, logs = tmp_path / "small.yaml", tmp_path / "logs"
    space.write_text(SMALL_SPACE)
    command = [sys.executable, "-m", "tvmfbnet.cli.main", "tune", "--target", "host", "--space", str(space)]
    command += ["--trials", "24", "--tuning-logs", str(logs), "--json"]
    trials = logs / "host" / "database" / "trials.jsonl"
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not trials.exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = trials.read_text().splitlines()
    assert before, "nothing was tuned before the kill"
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=400)
    outcome = json.loads(done.stdout)
    after = trials.read_text().splitlines()
    assert after[: len(before)] == before
    assert outcome["trials"] == len(after) > outcome["new_trials"]
    assert outcome["untuned"] == [] and outcome["measured_now"] == outcome["parts"]
    again = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=400).stdout)
    assert again["new_trials"] == 0 and again["measured_now"] == 0
