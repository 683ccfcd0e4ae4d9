"""Progress promises: in a pipe each step begins with a line and none is silent for long; a terminal is live."""

import os
import pty
import re
import subprocess
import sys
import time

from tvmfbnet import progress as progress_module
from tvmfbnet.cli import terminal
from tvmfbnet.progress import loading, progress, say, step


def shorten(monkeypatch, seconds):
    monkeypatch.setattr(terminal, "SILENCE", seconds)
    monkeypatch.setattr(progress_module, "PATIENCE", 2 * seconds)


def test_in_a_pipe_work_says_when_it_begins_how_far_it_is_and_when_it_is_done(capsys, monkeypatch):
    shorten(monkeypatch, 0.2)
    with progress("timing", 3) as reporter:
        reporter.advance(note="best 2 ms")
        time.sleep(0.5)
        reporter.advance(2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "timing: 0/3 (0 s)" and said[-1].startswith("timing: 3/3 (")
    assert [line for line in said if re.fullmatch(r"timing: 1/3 \(\d s\) best 2 ms", line)]


def test_a_step_that_cannot_be_counted_breaks_its_silence_too(capsys, monkeypatch):
    shorten(monkeypatch, 0.2)
    with step("waiting for the device"):
        time.sleep(0.7)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "waiting for the device: ..."
    assert len(said) >= 3 and all(re.fullmatch(r"waiting for the device: \(\d s\)", line) for line in said[1:])


def test_the_innermost_work_speaks_and_other_lines_break_the_silence_as_well(capsys, monkeypatch):
    shorten(monkeypatch, 0.3)
    with progress("compiling nets", 2), progress("scheduling blocks", 5):
        for _ in range(5):
            say("note: something else")
            time.sleep(0.15)
        assert capsys.readouterr().err.splitlines()[2:] == ["note: something else"] * 5
        time.sleep(0.5)
    said = capsys.readouterr().err
    assert "scheduling blocks: 0/5" in said and "compiling nets" not in said


def test_what_is_over_soon_says_nothing_and_what_lasts_does(capsys, monkeypatch):
    shorten(monkeypatch, 0.1)
    with loading("PyTorch"):
        pass
    assert capsys.readouterr().err == ""
    with loading("PyTorch"):
        time.sleep(0.5)
    assert capsys.readouterr().err.startswith("loading PyTorch: (")


def test_on_a_terminal_one_live_line_shows_the_elapsed_time():
    code = "import time\nfrom tvmfbnet.cli.terminal import shown\nfrom tvmfbnet.progress import progress, step\n"
    code += "with shown(), progress('compiling nets', 2) as r, step('waiting'):\n    time.sleep(1.5)\n    r.advance()\n"
    reader, writer = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writer, env={**os.environ, "TERM": "xterm"})
    os.close(writer)
    parts = []
    while True:
        try:
            parts.append(os.read(reader, 65536))
        except OSError:
            break
    assert process.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts).decode())
    assert "compiling nets" in shown and "0/2" in shown and "1/2" in shown and "0:00:01" in shown and "waiting" in shown
