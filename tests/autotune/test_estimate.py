"""Estimates promise to be of this machine: by its log, by a probe, or by the first rounds of the run under way."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tvmfbnet.autotune import estimate
from tvmfbnet.autotune.estimate import Rate, RunningEstimate
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.targets.definition import load_target, resolve


def test_a_run_tells_once_after_its_first_rounds_how_long_the_rest_takes_at_their_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    told = []
    running = RunningEstimate(lambda left, rate: left / rate.trials_per_second, told.append)
    for trials in range(60):  # 4 trials/s, after half a minute of loading that must not count
        running.update(trials, 1000 - trials)
        now[0] += 30.0 if not trials else 0.25
    (line,) = told
    assert line.startswith("about 0:04:0") and line.endswith(
        "to go (estimated from this run's first 21 trials: 4.0 trials/s)"
    )


def test_a_machine_that_builds_slowly_is_expected_to_tune_slowly():
    target = resolve(load_target("host"))
    slow, fast = (estimate._rate_by_build(target, seconds) for seconds in (2.0, 0.2))
    assert slow < 0.2 * fast
    assert Rate(slow, "").slowness > 5 * Rate(fast, "").slowness or Rate(slow, "").slowness == 20.0


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 2.0), (2.0, 0.5)])
def test_the_rate_of_a_log_is_that_of_its_newest_trials_without_the_pauses(tmp_path, seconds, rate):
    path, time, lines = tmp_path / "trials.jsonl", datetime(2026, 1, 1, tzinfo=UTC), []
    for number in range(700):
        # Long ago 10 trials/s, then a night's pause, then the current rate.
        time += timedelta(seconds=0.1 if number < 350 else 30_000.0 if number == 350 else seconds)
        lines.append(json.dumps({"task": "a", "kind": "", "best_ms": 1.0, "time": time.isoformat()}))
    path.write_text("\n".join(lines) + "\n")
    assert TrialLog(path).trials_per_second() == pytest.approx(rate)
