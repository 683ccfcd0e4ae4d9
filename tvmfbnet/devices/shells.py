"""Where a device's files and programs are: this machine, a board over SSH, a phone over adb, behind one interface.

Everything is done with the system's own ``ssh``, ``scp`` and ``adb``, each call under a deadline, so keys, hosts and
authorisation are those that the user has set up, and nothing asks for a password here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tvmfbnet.devices.toolchain import need_program
from tvmfbnet.errors import DeviceError
from tvmfbnet.files import make_folder, storage_errors

_RUN_SECONDS = 60.0
_COPY_SECONDS = 600.0


def _call(command: Sequence[str], seconds: float, where: str) -> str:
    """A program's output; DeviceError with its last message when it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"{where} gave no answer within {seconds:g} s ({command[0]})") from error
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
        raise DeviceError(f"{where}: {said[-1] if said else f'{command[0]} failed with exit code {done.returncode}'}")
    return done.stdout


class Shell(ABC):
    """A POSIX shell on a device, its files, and a tunnel between its loopback and ours."""

    where: str
    # Where the programs go when the user names no folder.
    default_folder: str

    @abstractmethod
    def run(self, script: str, seconds: float = _RUN_SECONDS) -> str:
        """Runs a shell script there and returns its output; DeviceError when it fails."""

    @abstractmethod
    def put(self, files: Sequence[Path], folder: str) -> None:
        """Copies files into a folder there, which is made."""

    @abstractmethod
    def open_tunnel(self, seen_port: int, tracker_port: int, server_port: int, local_port: int) -> None:
        """Shows our tracker at ``seen_port`` of the device's loopback, and its server at ``local_port`` of ours."""

    @abstractmethod
    def close_tunnel(self, seen_port: int, local_port: int) -> None:
        """Ends what :meth:`open_tunnel` began; no error when there is nothing to end."""


class LocalShell(Shell):
    """This machine."""

    where = "this machine"

    def __init__(self, folder: Path) -> None:
        self.default_folder = str(folder)

    def run(self, script: str, seconds: float = _RUN_SECONDS) -> str:
        """Runs a script in sh."""
        return _call(["sh", "-c", script], seconds, self.where)

    def put(self, files: Sequence[Path], folder: str) -> None:
        """Copies files."""
        with storage_errors(Path(folder), "write"):
            for file in files:
                shutil.copy2(file, make_folder(Path(folder)) / file.name)

    def open_tunnel(self, seen_port: int, tracker_port: int, server_port: int, local_port: int) -> None:
        """Nothing to do: it is the same loopback."""

    def close_tunnel(self, seen_port: int, local_port: int) -> None:
        """Nothing to do."""


class SshShell(Shell):
    """A board reached as ``user@host``.

    Args:
        destination: what ``ssh`` takes.
        options: ``ssh -o`` options, such as ``Port=2222``.
        control: a folder of this machine for the tunnel's control socket.
    """

    default_folder = "tvmfbnet-device"

    def __init__(self, destination: str, options: Sequence[str], control: Path) -> None:
        if destination.startswith("-"):
            raise DeviceError(f"{destination!r} is no SSH destination: write user@host")
        need_program("ssh", "reaches the device")
        need_program("scp", "copies files to the device")
        self.destination, self.where = destination, f"device {destination}"
        fixed = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
        self._options = [word for option in (*options, *fixed) for word in ("-o", option)]
        self._control = control

    def run(self, script: str, seconds: float = _RUN_SECONDS) -> str:
        """Runs a script over SSH."""
        return _call(["ssh", *self._options, self.destination, script], seconds, self.where)

    def put(self, files: Sequence[Path], folder: str) -> None:
        """Copies files with scp."""
        self.run(f"mkdir -p {folder}")
        command = ["scp", "-q", *self._options, *map(str, files), f"{self.destination}:{folder}/"]
        _call(command, _COPY_SECONDS, self.where)

    def _socket(self, local_port: int) -> str:
        return str(make_folder(self._control) / f"tunnel-{local_port}")

    def open_tunnel(self, seen_port: int, tracker_port: int, server_port: int, local_port: int) -> None:
        """One SSH connection in the background that carries both ways."""
        forwards = ["-R", f"127.0.0.1:{seen_port}:127.0.0.1:{tracker_port}"]
        forwards += ["-L", f"127.0.0.1:{local_port}:127.0.0.1:{server_port}"]
        master = ["-M", "-S", self._socket(local_port), "-o", "ExitOnForwardFailure=yes", "-f", "-N"]
        # Its output must not be ours: the connection stays, and with it the pipe that we would wait on.
        log = Path(self._socket(local_port) + ".log")
        with log.open("w", encoding="utf-8") as stream:
            command = ["ssh", *master, *self._options, *forwards, self.destination]
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=_RUN_SECONDS
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise DeviceError(f"{self.where}: the tunnel did not open within {_RUN_SECONDS:g} s") from error
        if code != 0:
            said = log.read_text(encoding="utf-8").strip().splitlines()
            raise DeviceError(f"{self.where}: the tunnel did not open: {said[-1] if said else f'exit code {code}'}")

    def close_tunnel(self, seen_port: int, local_port: int) -> None:
        """Asks the background connection to end."""
        socket = self._socket(local_port)
        if Path(socket).exists():
            _call(["ssh", "-S", socket, "-O", "exit", *self._options, self.destination], _RUN_SECONDS, self.where)


class AdbShell(Shell):
    """An Android phone, by its serial number, or the only one that is connected."""

    default_folder = "/data/local/tmp/tvmfbnet"

    def __init__(self, serial: str = "") -> None:
        adb = need_program("adb", "reaches the phone")
        self._adb = [adb, "-s", self._choose(adb, serial)]
        self.where = f"phone {self._adb[2]}"

    @staticmethod
    def _choose(adb: str, serial: str) -> str:
        """The phone to talk to.

        Raises:
            DeviceError: none, several, or it has not allowed this computer; says what to do.
        """
        listed = _call([adb, "devices"], _RUN_SECONDS, "adb").splitlines()
        pairs = [line.split("\t") for line in listed if re.fullmatch(r"\S+\t.+", line)]
        return choose_phone([(pair[0], pair[1].strip()) for pair in pairs], serial)

    def run(self, script: str, seconds: float = _RUN_SECONDS) -> str:
        """Runs a script in the phone's shell."""
        return _call([*self._adb, "shell", script], seconds, self.where)

    def put(self, files: Sequence[Path], folder: str) -> None:
        """Copies files with adb push."""
        self.run(f"mkdir -p {folder}")
        _call([*self._adb, "push", *map(str, files), f"{folder}/"], _COPY_SECONDS, self.where)

    def open_tunnel(self, seen_port: int, tracker_port: int, server_port: int, local_port: int) -> None:
        """``adb reverse`` for the tracker, ``adb forward`` for the server."""
        _call([*self._adb, "reverse", f"tcp:{seen_port}", f"tcp:{tracker_port}"], _RUN_SECONDS, self.where)
        _call([*self._adb, "forward", f"tcp:{local_port}", f"tcp:{server_port}"], _RUN_SECONDS, self.where)

    def close_tunnel(self, seen_port: int, local_port: int) -> None:
        """Removes both."""
        for words in (("reverse", "--remove", f"tcp:{seen_port}"), ("forward", "--remove", f"tcp:{local_port}")):
            subprocess.run([*self._adb, *words], capture_output=True, timeout=_RUN_SECONDS, check=False)


def choose_phone(phones: Sequence[tuple[str, str]], serial: str = "") -> str:
    """The serial of the phone to use, of ``adb devices``' (serial, state) pairs.

    Raises:
        DeviceError: none, several, not the one that was named, or one that is not ready; says what to do.
    """
    listed = ", ".join(f"{name} ({state})" for name, state in phones) or "none"
    chosen = [(name, state) for name, state in phones if name == serial] if serial else list(phones)
    if serial and not chosen:
        raise DeviceError(f"phone {serial} is not connected; connected: {listed}")
    if not chosen:
        raise DeviceError("no phone is connected: plug one in, switch on USB debugging, and see `adb devices`")
    if len(chosen) > 1:
        raise DeviceError(f"several phones are connected: choose one with --serial; connected: {listed}")
    name, state = chosen[0]
    if state.startswith("unauthorized"):
        raise DeviceError(
            f"phone {name} has not allowed this computer: unlock it and accept the USB debugging question"
        )
    if state != "device":
        raise DeviceError(f"phone {name} is not ready ({state}): reconnect it, or restart adb with `adb kill-server`")
    return name
