"""What a shell on a device is to the rest: scripts, files and a tunnel; and how the programs behind one are called."""

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
    """What became of a program: exit code, output, messages; what is no UTF-8 in them is replaced."""

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
    """Runs a program to its end, with a file as its input; DeviceError when it takes too long.

    Args:
        command: the program and its arguments.
        seconds: its deadline.
        where: the device in words, for messages.
        data: the file.
        watch: given what tells how many bytes of the file the program has read so far.
    """
    # Text that is no UTF-8 (a greeting in Latin-1) must not end the command.
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
    """Where in a file the program is that has it as its input: it shares that place with us."""
    try:
        return os.lseek(stream.fileno(), 0, os.SEEK_CUR)
    except (OSError, ValueError):  # it is closed: the program has ended
        return 0


def call(command: Sequence[str], seconds: float, where: str) -> str:
    """A program's output; DeviceError with its last message when it fails or takes too long."""
    done = run_program(command, seconds, where)
    if done.code != 0:
        raise failure(where, command[0], done)
    return done.output


def failure(where: str, program: str, done: Done) -> DeviceError:
    """The error of a program that failed: its last message."""
    said = [line.strip() for line in (done.output + "\n" + done.messages).splitlines() if line.strip()]
    return DeviceError(f"{where}: {said[-1] if said else f'{program} failed with exit code {done.code}'}")


@dataclass(frozen=True)
class Tunnel:
    """The two ways between a device's loopback and ours.

    Args:
        seen_port: where the device sees the tracker, on its loopback.
        tracker: the tracker's ``host:port``, as this machine reaches it.
        server_port: the server's, on the device's loopback.
        local_port: where this machine sees the server, on its loopback.
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
    # Where the programs go when the user names no folder.
    default_folder: str

    def folder(self, name: str) -> str:
        """A folder there as scripts are to name it: the default for an empty name, and never an option."""
        name = name or self.default_folder
        return f"./{name}" if name.startswith("-") else name

    @abstractmethod
    def run(self, script: str, seconds: float = RUN_SECONDS) -> str:
        """Runs a shell script there and returns its output; DeviceError when it fails."""

    @abstractmethod
    def put(self, files: Sequence[Path], folder: str, now: Reporter | None = None) -> None:
        """Copies files into a folder there, which is made; ``now`` is told how far that is."""

    @abstractmethod
    def tracker_there(self, tunnel: Tunnel) -> str:
        """The tracker's ``host:port`` as the device reaches it once the tunnel is open."""

    @abstractmethod
    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Opens both ways; DeviceError when one of them is not to be had."""

    @abstractmethod
    def close_tunnel(self, tunnel: Tunnel) -> None:
        """Ends what :meth:`open_tunnel` began and nothing else; no error when there is nothing to end."""


def show_files(now: Reporter | None, files: Sequence[Path], number: int, gone: Callable[[], int] = lambda: 0) -> None:
    """Has a step show that file ``number`` (from 0) of some is on its way, and how many bytes have gone.

    Args:
        now: the step.
        files: all that are sent, in order.
        number: the one that is on its way.
        gone: tells how many bytes of it have gone so far.
    """
    if now is None:
        return
    sizes = [file.stat().st_size for file in files]
    before, total = sum(sizes[:number]), sum(sizes)
    name = files[number].name
    now.look = lambda: (
        f"file {number + 1} of {len(files)} ({name}), {(before + gone()) / 1e6:.1f} of {total / 1e6:.1f} MB"
    )
