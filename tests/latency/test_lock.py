"""One lock a target: whoever comes second waits, knows for whom, and finds what the first one did."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tvmfbnet.latency.lock import holder, target_lock

HOLDER = """
import sys, time
from pathlib import Path
from tvmfbnet.latency.lock import target_lock
folder = Path(sys.argv[1])
with target_lock(folder):
    print("held", flush=True)
    sys.stdin.readline()
    (folder / "done").write_text("by the first")
"""

SECOND = """
import logging, sys
from pathlib import Path
from tvmfbnet.latency.lock import target_lock
logging.basicConfig(level=logging.INFO)
folder = Path(sys.argv[1])
with target_lock(folder):
    print((folder / "done").read_text() if (folder / "done").exists() else "nothing")
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def test_a_second_process_waits_says_for_whom_and_finds_what_the_first_did(tmp_path: Path) -> None:
    first = start(HOLDER, tmp_path)
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    assert holder(tmp_path).startswith(f"process {first.pid} (-c {tmp_path}, since 20")
    second = start(SECOND, tmp_path)
    assert second.stderr is not None
    said = second.stderr.readline()
    assert f"process {first.pid}" in said and "waiting" in said
    first.communicate("\n", timeout=60)
    assert second.communicate(timeout=60)[0] == "by the first\n"
    assert holder(tmp_path) == "another process"


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    first = start(HOLDER, tmp_path)
    assert first.stdout is not None
    first.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=60)
    started = time.monotonic()
    with target_lock(tmp_path), target_lock(tmp_path):
        assert f"process {os.getpid()}" in holder(tmp_path)
    assert time.monotonic() - started < 10
    second = start(SECOND, tmp_path)
    assert second.communicate(timeout=60) == ("nothing\n", "")
