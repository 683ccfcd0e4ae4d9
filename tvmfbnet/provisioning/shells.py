"""Shells of devices behind one interface: this machine, and a board over SSH (a phone: ``adb_shell.py``).

The system's own ``ssh`` is used, each call with a timeout. So the user's keys, hosts and authorisation apply, and
nothing prompts for a password. A board's login shell only needs to be able to run ``sh``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from shlex import quote

from tvmfbnet.errors import DeviceError, StorageError
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.progress import Reporter
from tvmfbnet.provisioning.remote_script import MarkedScript, for_any_shell
from tvmfbnet.provisioning.shell_base import RUN_SECONDS, Done, Shell, Tunnel, call, failure, run_program, show_files
from tvmfbnet.rpc.addresses import join_address
from tvmfbnet.tools import need_program

_COPY_SECONDS = 600.0
_LOOPBACK = "127.0.0.1"
# 108 bytes less ssh's own suffix.
_LONGEST_SOCKET = 90


class LocalShell(Shell):
    """This machine."""

    where = "this machine"

    def __init__(self, folder: Path) -> None:
        self.default_folder = str(folder)

    def folder(self, name: str) -> str:
        """As for any shell, but absolute, so that later commands find it from any working directory."""
        return str(Path(name or self.default_folder).expanduser().absolute())

    def run(self, script: str, seconds: float = RUN_SECONDS) -> str:
        """Runs a script in sh."""
        return call(["sh", "-c", script], seconds, self.where)

    def put(self, files: Sequence[Path], folder: str, now: Reporter | None = None) -> None:
        """Copies files."""
        with storage_errors(Path(folder), "write"):
            for number, file in enumerate(files):
                show_files(now, files, number)
                shutil.copy2(file, make_folder(Path(folder)) / file.name)

    def tracker_there(self, tunnel: Tunnel) -> str:
        """The tracker's own address: there is no tunnel."""
        return tunnel.tracker

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Does nothing: the loopback is the same."""

    def close_tunnel(self, tunnel: Tunnel) -> None:
        """Does nothing."""


class SshShell(Shell):
    """A board reached as ``user@host``; the host may be an IPv6 address, with or without brackets.

    Args:
        destination: what ``ssh`` takes.
        options: ``ssh -o`` options, such as ``Port=2222``.
        control: a folder of this machine for the tunnel's control socket.
    """

    default_folder = "tvmfbnet-device"

    def __init__(self, destination: str, options: Sequence[str], control: Path) -> None:
        bracketed = re.fullmatch(r"(.*@)?\[([^\[\]]+)\]", destination)
        plain = f"{bracketed.group(1) or ''}{bracketed.group(2)}" if bracketed else destination
        if not plain or plain.startswith("-") or re.search(r"\s|[\[\]]", plain):
            raise DeviceError(
                f"{destination!r} is no SSH destination: write user@host (a port: --ssh-option Port=2222)"
            )
        need_program("ssh", "reaches the device")
        self.destination, self.where = plain, f"device {destination}"
        self.words = ("--ssh", destination, *(word for option in options for word in ("--ssh-option", option)))
        fixed = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
        self._options = [word for option in (*options, *fixed) for word in ("-o", option)]
        self._control = control

    def folder(self, name: str) -> str:
        """As for any shell; ``~/`` is dropped, because SSH starts there."""
        return super().folder(name.removeprefix("~/"))

    def run(self, script: str, seconds: float = RUN_SECONDS) -> str:
        """Runs a script over SSH in sh, whatever the login shell is and prints."""
        return self._run(script, seconds)

    def _run(
        self,
        script: str,
        seconds: float,
        data: Path | None = None,
        watch: Callable[[Callable[[], int]], None] | None = None,
    ) -> str:
        marked = MarkedScript.of(script)
        command = ["ssh", *self._options, self.destination, for_any_shell(marked.text)]
        done = run_program(command, seconds, self.where, data, watch)
        output, messages = marked.inside(done.output), marked.inside(done.messages)
        if output is None and done.code == 0:
            said = (done.output + done.messages).strip()[:80]
            raise DeviceError(f"{self.where}: the login shell there ran no command, and said {said!r}")
        if done.code != 0:
            # A profile's output is not why the script failed, but if the script never started, there is nothing else.
            answer = done if output is None else Done(done.code, output, messages or "")
            raise failure(self.where, "ssh", answer)
        return output or ""

    def put(self, files: Sequence[Path], folder: str, now: Reporter | None = None) -> None:
        """Copies files through ``cat``: scp fails if the remote profile prints a greeting."""
        self.run(f"mkdir -p {quote(folder)}")
        for number, file in enumerate(files):
            watch = partial(show_files, now, files, number)
            self._run(f"cat >{quote(f'{folder}/{file.name}')}", _COPY_SECONDS, file, watch)

    def tracker_there(self, tunnel: Tunnel) -> str:
        """The tunnel's end on the device."""
        return join_address(_LOOPBACK, tunnel.seen_port)

    def _socket(self, tunnel: Tunnel) -> Path:
        socket = make_folder(self._control) / f"tunnel-{tunnel.local_port}"
        if len(os.fsencode(socket)) <= _LONGEST_SOCKET:
            return socket
        # Socket paths must be short. The folder must be private: anyone who can write there could impersonate ssh.
        name = hashlib.sha256(os.fsencode(self._control.absolute())).hexdigest()[:8]
        folder = Path("/tmp") / f"tvmfbnet-{os.getuid()}-{name}"
        with storage_errors(folder, "create folder"):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise StorageError(
                f"{folder} is not a folder of yours alone; remove it, or set XDG_CACHE_HOME to a short path"
            )
        return folder / socket.name

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Opens one background SSH connection for both directions."""
        self.close_tunnel(tunnel)  # left from an earlier start with the same port
        socket = self._socket(tunnel)
        forwards = ["-R", f"{_LOOPBACK}:{tunnel.seen_port}:{tunnel.tracker}"]
        forwards += ["-L", f"{_LOOPBACK}:{tunnel.local_port}:{_LOOPBACK}:{tunnel.server_port}"]
        master = ["-M", "-S", str(socket), "-o", "ExitOnForwardFailure=yes", "-f", "-N"]
        # It must not inherit our output: the connection stays open, and so would the pipe that we wait on.
        log = Path(f"{socket}.log")
        with storage_errors(log, "write"), log.open("w", encoding="utf-8") as stream:
            command = ["ssh", *master, *self._options, *forwards, self.destination]
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=RUN_SECONDS
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise DeviceError(f"{self.where}: the tunnel did not open within {RUN_SECONDS:g} s") from error
        if code != 0:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise DeviceError(f"{self.where}: the tunnel did not open: {said[-1] if said else f'exit code {code}'}")

    def close_tunnel(self, tunnel: Tunnel) -> None:
        """Asks the background connection to exit, and removes the socket that a dead one leaves."""
        socket = self._socket(tunnel)
        if socket.exists():
            command = ["ssh", "-S", str(socket), "-O", "exit", *self._options, self.destination]
            with suppress(DeviceError):  # it is already dead
                call(command, RUN_SECONDS, self.where)
        with storage_errors(socket, "remove"):
            socket.unlink(missing_ok=True)
            Path(f"{socket}.log").unlink(missing_ok=True)
