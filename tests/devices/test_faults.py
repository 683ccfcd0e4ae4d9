"""Faults of every kind during measurements lose nothing, hang nothing and change no result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"


@pytest.mark.rpc
@pytest.mark.slow
def test_a_fleet_under_every_kind_of_fault_loses_nothing():
    done = subprocess.run([sys.executable, SCRIPT, "--faults", "13"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    tally = json.loads(done.stdout)
    assert tally["kinds"] == 13
    assert (tally["lost"], tally["hangs"], tally["wrong_results"]) == (0, 0, 0)
    assert tally["measurements_done"] >= 10
    assert tally["calls_retried"] > 0, "no fault met a measurement: the test shows nothing"
