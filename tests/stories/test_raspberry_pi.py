"""A story through the real command line: a Raspberry Pi, from `device push` to its first measurements.

The board is this machine behind a real sshd; tracker, tunnel, server program and measurements are the real ones. What
was shown is read as it came, with the time of each line.
"""

import getpass
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time

import pytest
import yaml
from forked import start_command
from loopback_ssh import has_sshd, loopback_sshd

from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.rpc.tracker import port_is_open

pytestmark = [pytest.mark.rpc, pytest.mark.slow]

TIMING = {"drift_limit": 5.0, "rest_seconds": 0, "repeats": 3, "min_repeat_ms": 1, "visits": 1, "chain_rounds": 1}
# A sign of life comes every 4 s; the rest is what a busy machine takes to print it.
LONGEST_SILENCE = 8.0


class Shown:
    """What a command showed on stderr, line by line, and the longest time without a line."""

    def __init__(self, words, environment):
        self.words, self.lines, self.longest = words, [], 0.0
        self._process = start_command(words, environment=environment)
        reader = threading.Thread(target=self._read)
        reader.start()
        self.out = self._process.stdout.read()
        reader.join()
        self.code = self._process.wait()

    def _read(self):
        last = None
        for line in self._process.stderr:
            now = time.monotonic()
            self.longest, last = max(self.longest, now - (last or now)), now
            self.lines.append(line.rstrip())

    @property
    def steps(self):
        """The steps that were named as they began, in order."""
        return [line.removesuffix(": ...") for line in self.lines if line.endswith(": ...")]

    def require(self, code=0, silence=LONGEST_SILENCE):
        told = "\n".join(self.lines)
        assert self.code == code, f"{' '.join(map(str, self.words))}: exit code {self.code}\n{told}"
        assert self.longest < silence, f"{self.longest:.0f} s without a line:\n{told}"
        return self


@pytest.fixture
def pi(tmp_path, tiny_space_file, monkeypatch):
    """A folder of work with a target file for the board, and how the board is reached."""
    if not has_sshd():
        pytest.skip("sshd or ssh is missing; scripts/setup --emulation installs them")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing was ever built
    target = {
        **{"name": "pi", "description": "this machine behind sshd", "exercised": False, "timing": TIMING},
        "tvm": {"kind": "llvm", "mcpu": "native", "num-cores": 1, "opt-level": 0},
        "transport": {"kind": "tracker", "port": free_port(), "key": "pi"},
    }
    (tmp_path / "pi.yaml").write_text(yaml.safe_dump(target))
    (tmp_path / "ssh").mkdir()
    with loopback_sshd(tmp_path / "ssh") as options:
        way = ["--ssh", f"{getpass.getuser()}@127.0.0.1", "--folder", tmp_path / "board"]
        yield target["transport"]["port"], [*way, *(word for option in options for word in ("--ssh-option", option))]


def test_a_raspberry_pi_from_push_to_its_first_measurements(pi, tmp_path):
    port, way = pi
    environment = dict(os.environ)

    def run(*words):
        return Shown(words, environment)

    def device(action, *words):
        return run("device", action, "--target", "pi.yaml", *way, *words)

    # What is not there yet is said at once, with the command that mends it.
    missing = run("tune", "--target", "pi.yaml", "--space", "tiny.yaml").require(2)
    assert f"start one with `tvmfbnet tracker --port {port}`" in missing.lines[-1]
    tracker = subprocess.Popen([sys.executable, "-m", "tvmfbnet", "tracker", "--port", str(port)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not port_is_open("127.0.0.1", port):
            assert tracker.poll() is None and time.monotonic() < deadline, "the tracker did not start"
            time.sleep(0.1)
        # Tracker and board share this machine's loopback here, so the tunnel shows the tracker at another port.
        start = ["--port", free_port(), "--device-tracker-port", free_port()]
        unpushed = device("start", *start).require(2).lines[-1]
        assert "push them with `tvmfbnet device push --ssh" in unpushed and "--target pi.yaml" in unpushed

        pushed = device("push").require()
        where, here = f"device {way[1]}", str(tmp_path / "board")
        told = [re.sub(r"[0-9]+ files, [0-9.]+ MB", "N files, X MB", line) for line in pushed.steps]
        building = [f"device programs: {what}" for what in ("configuring", "compiling and linking", "checking")]
        sending = [f"pushing N files, X MB, to {where}", f"checking what arrived in folder {here}"]
        assert told == [f"connecting to {where}", *building, *sending, "trying the server there"]
        assert any(line.startswith("device programs: built, ") for line in pushed.lines)
        assert f"pushed to {where}, folder {here}; runs there" in pushed.out

        unserved = run("tune", "--target", "pi.yaml", "--space", "tiny.yaml").require(2).lines[-1]
        assert "no device serves key 'pi'" in unserved and "`tvmfbnet device start --ssh" in unserved
        advised = shlex.split(unserved.split("`")[1])[1:]  # it knows how the board was reached

        started = run(*advised, *start).require()
        assert started.steps == [
            f"asking the tracker at 127.0.0.1:{port}",
            f"looking at {where} and its programs in folder {here}",
            "opening the tunnel",
            "starting the server, until it registers with the tracker",
        ]
        assert "serves key pi" in started.out

        words = ["--target", "pi.yaml", "--space", "tiny.yaml"]
        tuned = run("tune", *words, "--blocks", "k3_e1", "--trials", "1", "--batch", "1", "--json")
        assert json.loads(tuned.require(silence=60).out)["measured_now"] > 0
        table = run("latency", "show", *words, "--measured-only", "--json")
        cells = json.loads(table.require().out)["cells"]
        assert {cell["source"] for cell in cells} == {"measured"} and all(cell["latency_ms"] > 0 for cell in cells)
    finally:
        stopped = device("stop")
        tracker.terminate()
        tracker.wait()
    assert "stopped" in stopped.require().out
