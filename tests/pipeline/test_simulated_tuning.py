"""A simulated device takes the path of a phone, gives the same bits each time, and nothing that it takes is measured.

Skipped where LLVM, qemu or a compiler is missing (`scripts/setup --emulation` installs them).
"""

import json
import tempfile
from contextlib import ExitStack

import pytest

import tvmfbnet as tf
from tvmfbnet.api.compile import compile_and_time
from tvmfbnet.provisioning.simulated_device import missing_for_simulation
from tvmfbnet.targets.definition import load_target

SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 2
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 1, stride: 2}
blocks: [k3_e1]
last_channels: 4
"""

pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture
def space(tmp_path):
    missing = missing_for_simulation(load_target("sim_a76"))
    if missing:
        pytest.skip("; ".join(missing))
    (tmp_path / "one.yaml").write_text(SPACE)
    return str(tmp_path / "one.yaml")


@pytest.fixture
def other_machine(monkeypatch):
    """Makes this process look like one of another machine: a temporary folder and an environment of some length."""
    with ExitStack() as folders:

        def look(length):
            prefix = "t" * length  # not in tmp_path, which is too long for a socket's path
            folder = folders.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp"))
            monkeypatch.setenv("TMPDIR", folder)
            monkeypatch.setattr(tempfile, "tempdir", None)
            monkeypatch.setenv("SOMETHING", "x" * 200 * length)

        yield look


def test_two_runs_of_tuning_and_a_compiled_net_are_bit_equal_and_simulated(space, tmp_path, other_machine):
    tables, journals = [], []
    for name, length in (("first", 1), ("second", 30)):
        other_machine(length)
        logs = tmp_path / name
        done = tf.tune(space, "sim_a76", {"trials": 1, "batch": 1}, tuning_logs=logs)
        assert done.timed == done.parts == 5 and not done.report.untuned and not done.report.failures
        tables.append(tf.LatencyTable.load("sim_a76", tuning_logs=logs))
        lines = (logs / "sim_a76" / "latency.jsonl").read_text().splitlines()
        journals.append([{**json.loads(line), "time": "", "fingerprint": ""} for line in lines])
    assert tables[0].cells == tables[1].cells and tables[0].overhead_ms == tables[1].overhead_ms > 0
    assert journals[0] == journals[1]
    assert {line["source"] for line in journals[0]} == {"simulated"}
    assert {line["device_model"].split(", model ")[0] for line in journals[0]} == {
        "simulated Cortex-A76 (Raspberry Pi 5)"
    }
    assert tables[0].is_simulated and {cell.source for cell in tables[0].cells.values()} == {"simulated"}

    options = {"latency_target_ms": 100}
    made = compile_and_time("k3_e1", space, "sim_a76", options, out=tmp_path / "package", tuning_logs=logs)
    assert made.verdict.kind == "met" and made.latency.source == "simulated"
    assert "simulated" in made.verdict.describe() and "measured" not in made.verdict.describe()
    described = json.loads((tmp_path / "package" / "package.json").read_text())
    assert described["latency"]["source"] == "simulated" and described["latency_source"]["simulated"] is True
    assert described["parity"]["verdict"] == "passed"
    # The net in one piece takes what its parts took inside nets, more or less.
    assert made.latency.interval.value == pytest.approx(
        tables[0].arch_ms(tf.Arch(("k3_e1",)), tf.Space.load(space)), rel=0.5
    )
