"""The interface of a shell on a device (scripts, files and a tunnel), and the helpers that run programs for it."""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tvmfbnet.errors import DeviceError
from tvmfbnet.files import storage_errors
from tvmfbnet.progress import Reporter

RUN_SECONDS = 60.0


@dataclass(frozen=True)
class Done:
    """The result of a program: exit code, output, messages; invalid UTF-8 is replaced."""

    code: int
    output: str
    messages: str


def run_program(
    command: Sequence[str],
    seconds: float,
    where: str,
    data: Path | None = None,
    watch: Callable[[Callable[[], int]], None] | None = None,
) -> Done:
    """Runs a program with a file as its input; DeviceError on a timeout.

    Args:
        command: the program and its arguments.
        seconds: its timeout.
        where: the device, for messages.
        data: the input file.
        watch: receives a function that returns the bytes of the file read so far.
    """
    # Invalid UTF-8 (a greeting in Latin-1) must not fail the command.
    options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": seconds}
    try:
        if data is None:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        else:
            with storage_errors(data, "read"), data.open("rb") as stream:
                if watch is not None:
                    watch(partial(_bytes_read, stream))
                done = subprocess.run(command, stdin=stream, **options)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{where} gave no answer within {seconds:g} s ({command[0]})") from error
    return Done(done.returncode, done.stdout, done.stderr)


def _bytes_read(stream: BinaryIO) -> int:
    """The read position of a program in its input file, which shares our file offset."""
    try:
        return os.lseek(stream.fileno(), 0, os.SEEK_CUR)
    except (OSError, ValueError):  # closed: the program has exited
        return 0


def call(command: Sequence[str], seconds: float, where: str) -> str:
    """A program's output; DeviceError with its last message if it fails or times out."""
    done = run_program(command, seconds, where)
    if done.code != 0:
        raise failure(where, command[0], done)
    return done.output


def failure(where: str, program: str, done: Done) -> DeviceError:
    """The error of a failed program, with its last message."""
    said = [line.strip() for line in (done.output + "\n" + done.messages).splitlines() if line.strip()]
    return DeviceError(f"{where}: {said[-1] if said else f'{program} failed with exit code {done.code}'}")


@dataclass(frozen=True)
class Tunnel:
    """Port forwarding in both directions between a device's loopback and ours.

    Args:
        seen_port: of the tracker, on the device's loopback.
        tracker: the tracker's ``host:port`` as seen from this machine.
        server_port: of the server, on the device's loopback.
        local_port: of the server, on this machine's loopback.
    """

    seen_port: int
    tracker: str
    server_port: int
    local_port: int


class Shell(ABC):
    """A POSIX shell on a device, its files, and a tunnel between its loopback and ours."""

    where: str
    # The options that name this device on the command line.
    words: tuple[str, ...] = ()
    # Default folder for the programs.
    default_folder: str

    def folder(self, name: str) -> str:
        """A folder on the device as used in scripts: the default for an empty name; never looks like an option."""
        name = name or self.default_folder
        return f"./{name}" if name.startswith("-") else name

    @abstractmethod
    def run(self, script: str, seconds: float = RUN_SECONDS) -> str:
        """Runs a shell script on the device and returns its output; DeviceError on failure."""

    @abstractmethod
    def put(self, files: Sequence[Path], folder: str, now: Reporter | None = None) -> None:
        """Copies files into a folder on the device, creating it; ``now`` shows the progress."""

    @abstractmethod
    def tracker_there(self, tunnel: Tunnel) -> str:
        """The tracker's ``host:port`` as seen from the device once the tunnel is open."""

    @abstractmethod
    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Opens both directions; DeviceError if either fails."""

    @abstractmethod
    def close_tunnel(self, tunnel: Tunnel) -> None:
        """Closes what :meth:`open_tunnel` opened, and nothing else; no error if nothing is open."""


def show_files(now: Reporter | None, files: Sequence[Path], number: int, sent: Callable[[], int] = lambda: 0) -> None:
    """Makes a step show the upload progress: file ``number`` (from 0) and the bytes sent.

    Args:
        now: the step.
        files: to upload, in order.
        number: of the current file.
        sent: returns the bytes of it sent so far.
    """
    if now is None:
        return
    sizes = [file.stat().st_size for file in files]
    before, total = sum(sizes[:number]), sum(sizes)
    name = files[number].name
    now.look = lambda: (
        f"file {number + 1} of {len(files)} ({name}), {(before + sent()) / 1e6:.1f} of {total / 1e6:.1f} MB"
    )
