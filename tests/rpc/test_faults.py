"""Faults of every kind during measurements lose nothing, hang nothing and change no result."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"


# Every kind once; those of the network need root and iproute2.
KINDS = 16 if os.geteuid() == 0 and shutil.which("ip") and shutil.which("tc") else 14

pytestmark = [pytest.mark.rpc, pytest.mark.slow]


def tally_of(*options):
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    tally = json.loads(done.stdout)
    assert (tally["lost"], tally["hangs"], tally["wrong_results"]) == (0, 0, 0)
    return tally


def test_a_fleet_under_every_kind_of_fault_loses_nothing():
    tally = tally_of("--faults", str(KINDS))
    assert tally["kinds"] == KINDS
    assert tally["measurements_done"] >= 10
    assert tally["calls_tried_again"] > 0, "no fault met a measurement: the test shows nothing"


def test_tuning_on_a_fleet_under_every_kind_of_fault_equals_a_tuning_without():
    tally = tally_of("--tune", "--faults", str(2 * KINDS))
    assert tally["kinds"] == KINDS and tally["trials"] > 0
    assert tally["failed_trials"] == {}, "a device's fault was recorded as a kernel's"
    assert tally["what_happened_to_the_devices"], "no fault met a trial: the test shows nothing"
