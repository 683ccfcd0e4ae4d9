"""Starts and stops the server on a device and its tunnel, over any shell, and reads the server's log.

The state is saved in a folder of this machine, so that a later command can stop everything, even if the device, its SSH
connection or adb was lost in between.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tvmfbnet.errors import DeviceError
from tvmfbnet.files import storage_errors, write_json
from tvmfbnet.progress import say, step
from tvmfbnet.provisioning.loopback import free_port
from tvmfbnet.provisioning.programs import SERVER
from tvmfbnet.provisioning.pushing import require_pushed, start_command, stop_command
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.shell_base import Shell, Tunnel
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.provisioning.system_check import check_system
from tvmfbnet.rpc.addresses import join_address
from tvmfbnet.rpc.tracker import address_text, query_tracker
from tvmfbnet.targets.definition import Target

_PID, _LOG = "server.pid", "server.log"
_STATE = "state.json"
# Of a server that ends by itself; see device/server/main.cc and device/common/options.cc.
_LAST_WORDS = ("ending on signal", "; ending", "error: ")


@dataclass(frozen=True)
class Started:
    """A started server.

    Args:
        folder: of the programs on the device.
        server_port: on the device.
        local_port: on this machine, forwarded to the server.
        tracker_port: of the tracker as seen from the device.
        tracker: the tracker's ``host:port`` as seen from this machine.
        where: the device, for messages.
    """

    folder: str
    server_port: int
    local_port: int
    tracker_port: int
    tracker: str = ""
    where: str = ""

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel to it."""
        tracker = self.tracker or join_address("127.0.0.1", self.tracker_port)
        return Tunnel(self.tracker_port, tracker, self.server_port, self.local_port)


def device_facts_by_shell(shell: Shell, target: Target, folder: str = "") -> dict[str, str]:
    """The device facts reported by the pushed server; DeviceError if it does not run there."""
    folder = shell.folder(folder)
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
    """Starts the pushed server on the device in the background, and the tunnel between its loopback and ours.

    Args:
        shell: of the device.
        target: key, threads, cores, emulator; ``transport.host`` is where the tracker runs.
        state: folder of this machine for the state of this server, beside those of other devices.
        tracker_port: of the tracker.
        server_port: of the server, on the device's loopback.
        folder: of the pushed programs.
        device_tracker_port: of the tracker on the device's side of the tunnel; the same port by default.

    Raises:
        DeviceError: an unsuitable system, missing programs, no tracker, a server that is already running, or one that
            does not start or register; carries its last message.
    """
    folder = shell.folder(folder)
    host = target.transport.host
    tracker = join_address(host, tracker_port)
    with step(f"asking the tracker at {tracker}"):
        query_tracker(host, tracker_port)
    with step(f"looking at {shell.where} and its programs in folder {folder}"):
        check_system(shell, target, cores=True)
        require_pushed(shell, target, folder)
        if _running(shell, folder):
            raise DeviceError(
                f"a server runs already on {shell.where}; end it with {stop_command(shell, target, folder)}"
            )
        _forget_dead(shell, target, state)
    here = isinstance(shell, LocalShell)
    local_port = server_port if here else free_port()
    started = Started(folder, server_port, local_port, device_tracker_port or tracker_port, tracker, shell.where)
    advertised = join_address("127.0.0.1", local_port)
    command = server_command(target, f"./{SERVER}", shell.tracker_there(started.tunnel), target.transport.key, here)
    command += ["--port", str(server_port), "--advertise", advertised, "--folder", "."]
    before = _registered(target, tracker_port, advertised)
    write_json(state / _STATE, asdict(started))
    words = " ".join(shlex.quote(word) for word in command)
    # setsid: the server must outlive the shell that starts it; all streams are closed, or ssh would wait for it.
    detach = "if command -v setsid >/dev/null; then d=setsid; else d=nohup; fi"
    script = (
        f"cd {shlex.quote(folder)} || exit 1; {detach}; $d {words} </dev/null >/dev/null 2>{_LOG} & echo $! >{_PID}"
    )
    try:
        with step("opening the tunnel"):
            shell.open_tunnel(started.tunnel)
        with step("starting the server, until it registers with the tracker"):
            shell.run(script)
            _await_registration(shell, target, folder, tracker_port, advertised, before)
    except BaseException:
        stop(shell, state, folder)  # leave no tunnel without a server, and nothing after a Ctrl-C
        raise
    return started


def _registered(target: Target, tracker_port: int, address: str) -> int:
    """Number of servers registered under the target's key at an address."""
    servers = query_tracker(target.transport.host, tracker_port).servers
    return sum(1 for server in servers if (server["key"], address_text(server)) == (target.transport.key, address))


def _await_registration(
    shell: Shell, target: Target, folder: str, tracker_port: int, address: str, before: int
) -> None:
    deadline = time.monotonic() + target.timeouts.connect
    while _registered(target, tracker_port, address) <= before:
        if not _running(shell, folder):
            raise DeviceError(f"the server on {shell.where} ended at once: {_last_line(shell, folder)}")
        if time.monotonic() > deadline:
            raise DeviceError(f"the server on {shell.where} did not register: {_last_line(shell, folder)}")
        time.sleep(0.2)


def _last_line(shell: Shell, folder: str) -> str:
    lines = logs(shell, folder).strip().splitlines()
    return lines[-1] if lines else "its log is empty"


def _running(shell: Shell, folder: str) -> bool:
    """Whether the process of the pid file is alive and is our server: process ids are reused."""
    script = (
        f"cd {shlex.quote(folder)} 2>/dev/null && pid=$(cat {_PID} 2>/dev/null) && "
        f"tr '\\0' ' ' 2>/dev/null </proc/$pid/cmdline | grep -q {SERVER} && echo running || true"
    )
    return shell.run(script).strip() == "running"


def silent_end(shell: Shell, target: Target, folder: str = "") -> str:
    """A line about a started server that no longer runs without its log saying why; empty for any other."""
    folder = shell.folder(folder)
    started = shell.run(f"if [ -f {shlex.quote(f'{folder}/{_PID}')} ]; then echo started; fi").strip()
    if not started or _running(shell, folder) or any(word in _last_line(shell, folder) for word in _LAST_WORDS):
        return ""
    again = start_command(shell, target, folder)
    return (
        f"the server on {shell.where} no longer runs, and its log does not say why: it crashed, or the system killed "
        f"it (signal 9), as Android does when memory is short; start it again with {again}"
    )


def stop(shell: Shell, state: Path, folder: str = "") -> bool:
    """Stops the device's server and the tunnel; returns whether a server was running.

    Raises:
        DeviceError: the device cannot be reached; this machine's end of the tunnel is closed anyway.
    """
    folder = shell.folder(folder)
    try:
        ran = _running(shell, folder)
        if ran:
            wait = "for i in 1 2 3 4 5 6 7 8 9 10; do kill -0 $pid 2>/dev/null || break; sleep 0.3; done"
            wait += "; kill -9 $pid 2>/dev/null; true"
            shell.run(f"cd {shlex.quote(folder)} && pid=$(cat {_PID}) && kill $pid && {{ {wait}; }}")
        shell.run(f"rm -f {shlex.quote(folder)}/{_PID}")
    finally:
        _forget(shell, state / _STATE)
    return ran


def _read_state(file: Path) -> Started | None:
    """The saved state of a started server; None if there is none, or it is unreadable."""
    if not file.is_file():
        return None
    try:
        with storage_errors(file, "read"):
            return TypeAdapter(Started).validate_json(file.read_bytes())
    except ValidationError:
        say(f"{file} is damaged; a tunnel that it may name stays open")
        return None


def _forget(shell: Shell, file: Path) -> None:
    """Closes a saved tunnel and deletes its state."""
    started = _read_state(file)
    if started is not None:
        shell.close_tunnel(started.tunnel)
    with storage_errors(file, "remove"):
        file.unlink(missing_ok=True)


def _forget_dead(shell: Shell, target: Target, state: Path) -> None:
    """Closes the tunnels of this device's earlier servers that are no longer running, for any target."""
    for file in sorted(state.parent.glob(f"*/{_STATE}")):
        started = _read_state(file)
        own = file.parent == state
        if started is None or not (own or started.where == shell.where):
            continue
        if not _running(shell, started.folder):
            _forget(shell, file)
        elif own:
            raise DeviceError(
                f"a server of this target runs already on {shell.where}, in folder {started.folder}; "
                f"end it with {stop_command(shell, target, started.folder)}"
            )


def logs(shell: Shell, folder: str = "", lines: int = 50) -> str:
    """The last lines of the server's log."""
    folder = shell.folder(folder)
    return shell.run(f"cd {shlex.quote(folder)} 2>/dev/null && tail -n {lines} {_LOG} 2>/dev/null || true")
