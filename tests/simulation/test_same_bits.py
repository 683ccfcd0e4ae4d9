"""Kernels take the same simulated time on this machine as on the one that the docs were written on, bit for bit."""

import re
import subprocess
from pathlib import Path

import pytest

from tvmfbnet.provisioning.simulated_device import missing_for_simulation
from tvmfbnet.simulation.cores import load_core
from tvmfbnet.targets.definition import load_target

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/results/simulated-tuning.md"

pytestmark = [pytest.mark.slow, pytest.mark.rpc, pytest.mark.emulated]


@pytest.fixture
def same_tools(llvm):
    """Skips where other compilers would make other code."""
    if missing := missing_for_simulation(load_target("sim_a72")):
        pytest.skip(missing[0])
    gcc = subprocess.run(["aarch64-linux-gnu-g++", "-dumpversion"], capture_output=True, text=True, check=True).stdout
    if not llvm.version.startswith("19.1.7") or gcc.strip() != "12":
        pytest.skip(f"recorded with LLVM 19.1.7 and g++ 12, not {llvm.version} and {gcc.strip()}")


def test_kernels_take_the_time_that_the_docs_say(same_tools, benchmark_script):
    times_ms = benchmark_script("same_bits").times_ms
    recorded = re.findall(r"(?m)^    ([0-9a-f]{16}) (\S+)$", PAGE.read_text())
    assert len(recorded) == 6
    assert [(key, repr(milliseconds)) for key, milliseconds in times_ms(load_core("a72"), 2)] == recorded[:2]
