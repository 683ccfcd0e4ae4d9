"""What the stories of Ctrl-C and of two terminals share: a tiny space, this machine timed briefly, commands watched."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from brief_target import brief_target
from forked import Started, start_command

from tvmfbnet.profiling.probe_networks import probe_networks
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import NetPart

SPACE = """
input: {channels: 1, height: 28, width: 28}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 4, layers: 2, stride: 2}
  - {channels: 4, layers: 1, stride: 1}
blocks: [k3_e1, skip]
last_channels: 8
"""
TARGET = brief_target(chain_runs=4, visits=12)


def write_files(folder: Path) -> list[str]:
    """Space and target as files; the options that name them and a folder of logs."""
    (folder / "small.yaml").write_text(SPACE)
    (folder / "mine.yaml").write_text(TARGET)
    logs = ["--tuning-logs", str(folder / "logs")]
    return ["--target", str(folder / "mine.yaml"), "--space", str(folder / "small.yaml"), *logs]


def rows_of_one_run(folder: Path) -> Counter[NetPart]:
    """How many measurements of each part one undisturbed `tune` makes: one in each of the nets that it is timed in."""
    space = load_space(str(folder / "small.yaml"))
    parts = (*space.fixed_parts(), *space.distinct_blocks())
    nets = probe_networks(space, set(space.distinct_blocks()), 1, parts, 0)
    return Counter(part for net in nets for part in dict.fromkeys(net) if part in parts)


def lines(path: Path) -> list[bytes]:
    """The whole lines of a file that is being written."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


@dataclass
class Watched:
    """A command under way in a session of its own, as in a terminal; its stderr is read as it comes."""

    process: Started
    said: list[str] = field(default_factory=list)
    heard: list[float] = field(default_factory=lambda: [time.monotonic()])

    @classmethod
    def start(cls, *words: str) -> Watched:
        process = start_command(words)
        watched = cls(process)
        watched.reader = threading.Thread(target=watched._read, daemon=True)
        watched.reader.start()
        return watched

    def _read(self) -> None:
        for line in iter(self.process.stderr.readline, ""):
            self.said.append(line)
            self.heard.append(time.monotonic())

    def longest_silence(self) -> float:
        """Seconds between two lines, or before the first one."""
        return max(later - sooner for sooner, later in zip(self.heard, self.heard[1:], strict=False))

    def says(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line for line in self.said)

    def wait_until(self, happened: Callable[[], bool], seconds: float = 300.0) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"ended too early: {self.said[-5:]}"
            assert time.monotonic() < deadline, f"nothing happened: {self.said[-5:]}"
            time.sleep(0.01)

    def interrupt(self) -> float:
        """A Ctrl-C, as a terminal sends it to the whole group; the seconds until the command has ended."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.wait(60) == 130, self.said[-5:]
        seconds = time.monotonic() - began
        self.reader.join()
        return seconds

    def finish(self, seconds: float = 600.0) -> str:
        """The command's stdout, once it has ended well."""
        out = self.process.stdout.read()
        assert self.process.wait(seconds) == 0, self.said[-5:]
        self.reader.join()
        return out
