"""A story: the same `tune` in several terminals at once. One measures, the others say for whom they wait, and why."""

import json
from collections import Counter

import pytest
from terminals import Watched, lines, rows_of_one_run, write_files

from tvmfbnet.latency.journal import Journal

pytestmark = [pytest.mark.rpc, pytest.mark.slow]

STEPS = (
    *("lowering blocks: ", "asking the device what it is", "tuning trials: 0/", "compiling the canary kernel"),
    *("timing an empty call", "compiling nets of blocks: 0/", "scheduling blocks: 0/", "timing blocks in nets: 0/"),
)


def test_two_tunes_of_one_target_measure_everything_once_and_the_second_says_for_whom_it_waits(tmp_path):
    words = ["tune", *write_files(tmp_path), "--trials", "1", "--batch", "1", "--json"]
    logs = tmp_path / "logs" / "mine"
    trials, journal = logs / "database/trials.jsonl", logs / "latency.jsonl"
    first = Watched.start(*words)
    first.wait_until((logs / ".lock-holder.json").exists)
    second = Watched.start(*words)  # while the first one lowers
    second.wait_until(second.says("waiting for it to end"))
    first.wait_until(first.says("compiling nets of blocks"))
    third = Watched.start(*words)  # so that it comes while the first one times
    third.wait_until(third.says("waiting for it to end"))
    told = json.loads(first.finish())
    tried, measured = lines(trials), lines(journal)
    assert told["new_trials"] == len(tried) > 0 and told["measured_now"] == told["parts"] > 0

    # Each step said that it began; how long nothing was said at most depends on what else runs here.
    for step in STEPS:
        assert any(line.startswith(step) for line in first.said), step
    assert first.longest_silence() < 30

    for other in (second, third):
        (line,) = [line for line in other.said if "waiting for it to end" in line]
        # The third one may come when it is the second one's turn.
        sooner = [watched for watched in (first, second) if watched is not other]
        assert line.startswith(tuple(f"process {watched.process.pid} (" for watched in sooner))
        assert " tune " in line and str(logs) in line
        told_others = json.loads(other.finish())
        assert (told_others["new_trials"], told_others["measured_now"], told_others["trials"]) == (0, 0, told["trials"])
    assert lines(trials) == tried and lines(journal) == measured
    rows = Counter(item.part for item in Journal(journal).read())
    assert rows == rows_of_one_run(tmp_path) and len(rows) == told["parts"]
