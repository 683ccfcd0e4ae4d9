"""Pushing the device programs to a device, and starting, stopping and reading the server there, over any shell."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tvmfbnet.devices.local import free_port
from tvmfbnet.devices.programs import SERVER, Programs
from tvmfbnet.devices.shells import LocalShell, Shell
from tvmfbnet.devices.starting import server_command
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.tracker import port_is_open, query_tracker
from tvmfbnet.errors import DeviceError
from tvmfbnet.files import read_json, write_json

_PID, _LOG = "server.pid", "server.log"
_STATE = "state.json"


@dataclass(frozen=True)
class Started:
    """A server that was started: the device's port, the port of this machine that leads to it, the tracker's."""

    folder: str
    server_port: int
    local_port: int
    tracker_port: int


def push(shell: Shell, programs: Programs, folder: str = "") -> str:
    """Copies the programs to the device, makes them runnable, tries them; returns the folder.

    Raises:
        DeviceError: copying failed, or the programs do not run there (wrong machine, C library too old).
    """
    folder = folder or shell.default_folder
    shell.put(programs.files, folder)
    shell.run(f"cd {shlex.quote(folder)} && chmod 755 tvmfbnet-*")
    return folder


def device_facts_by_shell(shell: Shell, target: Target, folder: str = "") -> dict[str, str]:
    """What the pushed server says about the device; DeviceError when it does not run there."""
    folder = folder or shell.default_folder
    emulator = _words(target.transport.emulator) if isinstance(shell, LocalShell) else ""
    said = shell.run(f"cd {shlex.quote(folder)} && {emulator}./{SERVER} --info")
    try:
        facts: dict[str, str] = json.loads(said)
    except json.JSONDecodeError as error:
        raise DeviceError(f"{shell.where}: the pushed server answers {said[:80]!r}, not JSON") from error
    return facts


def _words(words: tuple[str, ...]) -> str:
    return "".join(f"{shlex.quote(word)} " for word in words)


def start(
    shell: Shell,
    target: Target,
    state: Path,
    tracker_port: int,
    server_port: int = 9090,
    folder: str = "",
    device_tracker_port: int | None = None,
) -> Started:
    """Starts the pushed server on the device, in the background, and the tunnel between its loopback and ours.

    Args:
        shell: reaches the device.
        target: key, threads, cores, emulator.
        state: folder of this machine that remembers what was started.
        tracker_port: the tracker's on this machine's loopback.
        server_port: the server's on the device's loopback.
        folder: where the programs were pushed.
        device_tracker_port: where the tunnel shows the tracker on the device; default the same port.

    Raises:
        DeviceError: it runs already, or does not start or register; carries its last message.
    """
    folder = folder or shell.default_folder
    if not port_is_open("127.0.0.1", tracker_port):
        raise DeviceError(
            f"no tracker at 127.0.0.1:{tracker_port}; start one with: tvmfbnet tracker --port {tracker_port}"
        )
    if _running(shell, folder):
        raise DeviceError(f"a server runs already on {shell.where}; end it with tvmfbnet device stop")
    here = isinstance(shell, LocalShell)
    seen_port = device_tracker_port or tracker_port
    local_port = server_port if here else free_port()
    command = server_command(target, f"./{SERVER}", f"127.0.0.1:{seen_port}", target.transport.key, here)
    command += ["--port", str(server_port), "--advertise", f"127.0.0.1:{local_port}", "--folder", "."]
    before = query_tracker("127.0.0.1", tracker_port).serving(target.transport.key)
    shell.open_tunnel(seen_port, tracker_port, server_port, local_port)
    started = Started(folder, server_port, local_port, seen_port)
    write_json(state / _STATE, asdict(started))
    words = " ".join(shlex.quote(word) for word in command)
    # setsid: the server must outlive the shell that starts it; all streams closed, or ssh would wait for it.
    detach = "if command -v setsid >/dev/null; then d=setsid; else d=nohup; fi"
    script = (
        f"cd {shlex.quote(folder)} || exit 1; {detach}; $d {words} </dev/null >/dev/null 2>{_LOG} & echo $! >{_PID}"
    )
    try:
        shell.run(script)
        _await_registration(shell, target, folder, tracker_port, before)
    except DeviceError:
        stop(shell, state, folder)  # no tunnel to a server that is not there
        raise
    return started


def _await_registration(shell: Shell, target: Target, folder: str, tracker_port: int, before: int) -> None:
    deadline = time.monotonic() + target.timeouts.connect
    while query_tracker("127.0.0.1", tracker_port).serving(target.transport.key) <= before:
        if not _running(shell, folder):
            raise DeviceError(f"the server on {shell.where} ended at once: {_last_line(shell, folder)}")
        if time.monotonic() > deadline:
            raise DeviceError(f"the server on {shell.where} did not register: {_last_line(shell, folder)}")
        time.sleep(0.2)


def _last_line(shell: Shell, folder: str) -> str:
    lines = logs(shell, folder).strip().splitlines()
    return lines[-1] if lines else "its log is empty"


def _running(shell: Shell, folder: str) -> bool:
    """Whether the process of the pid file is alive and is our server: numbers are used again."""
    script = (
        f"cd {shlex.quote(folder)} 2>/dev/null && pid=$(cat {_PID} 2>/dev/null) && "
        f"tr '\\0' ' ' 2>/dev/null </proc/$pid/cmdline | grep -q {SERVER} && echo running || true"
    )
    return shell.run(script).strip() == "running"


def stop(shell: Shell, state: Path, folder: str = "") -> bool:
    """Ends the device's server and the tunnel; returns whether one ran."""
    folder = folder or shell.default_folder
    ran = _running(shell, folder)
    if ran:
        wait = "for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $pid 2>/dev/null || break; sleep 0.3; done"
        wait += "; kill -9 $pid 2>/dev/null; true"
        shell.run(f"cd {shlex.quote(folder)} && pid=$(cat {_PID}) && kill $pid && {{ {wait}; }}")
    shell.run(f"rm -f {shlex.quote(folder)}/{_PID}")
    if (state / _STATE).is_file():
        started = Started(**read_json(state / _STATE))
        shell.close_tunnel(started.tracker_port, started.local_port)
        (state / _STATE).unlink()
    return ran


def logs(shell: Shell, folder: str = "", lines: int = 50) -> str:
    """The last lines of the server's log."""
    folder = folder or shell.default_folder
    return shell.run(f"cd {shlex.quote(folder)} 2>/dev/null && tail -n {lines} {_LOG} 2>/dev/null || true")
