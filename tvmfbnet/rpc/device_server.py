"""The Python device server: serves one client at a time over TVM's RPC, each session in a forked child.

TVM's own loop handles one connection at a time without a timeout, dies with a crashing session, and leaves orphaned
sessions behind. This one is the twin of the native server (``device/server``): a single non-blocking loop, in which
only the session itself is TVM's.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.rpc.addresses import join_address, listen_at
from tvmfbnet.rpc.handshakes import Client, Handshakes
from tvmfbnet.rpc.registration import Registration
from tvmfbnet.rpc.shortlog import ShortLog, printable
from tvmfbnet.scratch import new_folder

_ACCEPTED_AT_ONCE = 128
_LONGEST_POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# A client that does not read must not block the server.
_TELL_SECONDS = 2


def die_with_parent() -> None:
    """Has Linux kill this process when the one that forked it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Args:
        host: address to listen on, and to advertise to clients.
        port: port to listen on.
        key: that clients request from the tracker.
        tracker: the tracker's host and port.
        max_session: longest session in seconds, whatever the client asks for.
    """

    host: str
    port: int
    key: str
    tracker: tuple[str, int]
    max_session: float


@dataclass(frozen=True)
class Fault:
    """A session killed by a signal: the signal, the client, the time (monotonic clock)."""

    number: int
    peer: str
    moment: float

    @property
    def text(self) -> str:
        """Such as ``signal 4 (illegal instruction)``."""
        name = signal.strsignal(self.number) or "unknown"
        why = "; the system does that when its memory is short" if self.number == signal.SIGKILL else ""
        return f"signal {self.number} ({name[:1].lower()}{name[1:]}{why})"

    def json(self) -> str:
        """JSON for clients, with the age in seconds."""
        age = time.monotonic() - self.moment
        return json.dumps({"signal": self.number, "what": self.text, "peer": self.peer, "age_seconds": age})


class _Session:
    """One client's session: a child process in a folder of its own, killed at its deadline."""

    def __init__(self, client: Client, max_seconds: float, serve: Callable[[socket.socket, str], None]) -> None:
        self._client = client
        self._seconds = min(client.seconds, max_seconds) if client.seconds else max_seconds
        self.deadline = time.monotonic() + self._seconds
        self._folder = str(new_folder())
        client.connection.setblocking(True)  # TVM reads with plain recv()
        server = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._run(server, serve)
        with suppress(OSError):
            os.setpgid(self._child, self._child)

    def _run(self, server: int, serve: Callable[[socket.socket, str], None]) -> None:
        """The child: never returns."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.setpgid(0, 0)
            die_with_parent()
            if os.getppid() == server:
                os.chdir(self._folder)
                serve(self._client.connection, self._folder)
        except BaseException as error:
            print(
                f"warning: session: {printable(f'{type(error).__name__}: {error}', 400)}", file=sys.stderr, flush=True
            )
            os._exit(1)
        os._exit(0)

    def ended(self) -> Fault | int | None:
        """None while it runs; then its exit code or fault. The client is told about a fault."""
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid == 0:
            return None
        self._kill_group()
        code = os.waitstatus_to_exitcode(status)
        fault = Fault(-code, self._client.peer, time.monotonic()) if code < 0 else None
        if fault is not None:
            self._tell(f"RPCSessionEndedError: the session on the device was ended by {fault.text}")
        self._close()
        return code if fault is None else fault

    def expire(self) -> None:
        """Kills it and tells the client why."""
        self.kill()
        self._tell(
            f"RPCSessionTimeoutError: the session's {self._seconds:g} s are over; "
            "the target's timeouts.session sets them"
        )
        self._close()

    def kill(self) -> None:
        """Kills it."""
        self._kill_group()
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child, signal.SIGKILL)  # including processes that the session started

    def _tell(self, message: str) -> None:
        """Sends a message as the answer to the client's pending call."""
        from tvm.rpc import _ffi_api

        with suppress(Exception):  # the client is gone
            limit = struct.pack("@ll", _TELL_SECONDS, 0)
            self._client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            _ffi_api.ReturnException(self._client.connection.fileno(), message)

    def _close(self) -> None:
        self._client.connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def peer(self) -> str:
        """Its client's address."""
        return self._client.peer


class _Folder:
    """TVM's server asks this for file paths: plain names in the session's own folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.libs: list[Any] = []  # TVM keeps what it loads here

    def relpath(self, name: str) -> str:
        """The path of a file; ValueError for a name that could escape the folder."""
        return str(Path(self._folder) / plain_name(name))


def plain_name(name: str) -> str:
    """A file name in a session's own folder; ValueError if it could escape the folder."""
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name or len(name) > 200:
        raise ValueError(f"the device takes plain file names only, not {printable(name)!r}")
    return name


def _upload(name: str, data: bytes | bytearray) -> None:
    """Replaces TVM's own upload, which writes truncated files on a full disk."""
    import tvm_ffi

    path = Path(str(tvm_ffi.get_global_func("tvm.rpc.server.workpath")(name)))
    path.write_bytes(data)


class DeviceServer:
    """Listens, stays registered, and runs one session at a time.

    Args:
        settings: addresses, key and limits.
        info: returns the JSON for ``tvmfbnet.device.info``.

    Raises:
        DeviceError: it cannot listen there.
    """

    def __init__(self, settings: Settings, info: Callable[[], str]) -> None:
        import tvm.rpc.server  # noqa: F401 - once, for all sessions

        info()  # loads what it needs, which takes 0.1 s, once as well
        self._settings, self._info, self._log = settings, info, ShortLog()
        self._listener = listen_at(settings.host, settings.port)
        place = settings.host, int(self._listener.getsockname()[1])
        self._registration = Registration(settings.tracker, settings.key, place, self._log)
        self._handshakes = Handshakes(settings.key, self._log)
        self._session: _Session | None = None
        self._fault: Fault | None = None
        self._woken, wake = os.pipe()
        for pipe in (self._woken, wake):
            os.set_blocking(pipe, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self, ended: Callable[[], bool]) -> None:
        """Serves until ``ended`` returns True; it is polled at least once per second."""
        events: dict[int, int] = {}
        while not ended():
            watched = self._registration.watched
            self._registration.step(events.get(watched[0], 0) if watched else 0, self._session is None)
            events = self._poll()
            self._handshakes.expire()
            if self._session is None:
                continue
            if (outcome := self._session.ended()) is not None:
                self._note(self._session.peer, outcome)
                self._session = None
            elif time.monotonic() >= self._session.deadline:
                self._session.expire()
                self._log("too long", f"session of {self._session.peer} took longer than its time; it was ended")
                self._session = None
        self.close()

    def close(self) -> None:
        """Ends the session and unregisters from the tracker."""
        if self._session is not None:
            self._session.kill()
        self._handshakes.close()
        self._registration.close()
        self._listener.close()

    def _note(self, peer: str, outcome: Fault | int) -> None:
        if isinstance(outcome, Fault):
            self._fault = outcome
            self._log("ended by a signal", f"session of {peer} ended by {outcome.text}")
        elif outcome:
            self._log("failed", f"session of {peer} failed with exit code {outcome}")

    def _poll(self) -> dict[int, int]:
        """Waits for events and accepts connections; returns the events by descriptor."""
        poll = select.poll()
        for number in (self._woken, self._listener.fileno(), *self._handshakes.descriptors):
            poll.register(number, select.POLLIN)
        watched = self._registration.watched
        if watched:
            poll.register(*watched)
        until = min(self._handshakes.deadline, self._registration.deadline)
        if self._session is not None:
            until = min(until, self._session.deadline)
        seconds = min(_LONGEST_POLL_SECONDS, max(0.0, until - time.monotonic()))
        events = dict(poll.poll(1e3 * seconds + 1))
        with suppress(BlockingIOError):
            while os.read(self._woken, 64):
                pass
        match_key = "" if self._session is not None else self._registration.match_key
        client = self._handshakes.serve(events, match_key)
        if client is not None:
            self._begin(client)
        if self._listener.fileno() in events:
            self._accept()
        return events

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):  # then serve others
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # too many open files
                if not self._handshakes.drop_oldest():
                    time.sleep(0.05)
                    return
            else:
                self._handshakes.add(connection, address)

    def _begin(self, client: Client) -> None:
        self._registration.withdraw()
        try:
            self._session = _Session(client, self._settings.max_session, self._serve)
        except OSError as error:  # no folder, or no process
            client.connection.close()
            self._log("no session", f"cannot start a session of {client.peer}: {error}")

    def _serve(self, connection: socket.socket, folder: str) -> None:
        """Runs in the session's process: TVM's server, with our functions for uploads and device facts."""
        import tvm_ffi
        from tvm.rpc import server

        for inherited in (self._handshakes, self._registration, self._listener):
            inherited.close()
        environment: Any = _Folder(folder)
        register = tvm_ffi.register_global_func
        server._server_env(None, environment)
        register("tvm.rpc.server.upload", _upload, override=True)
        register("tvmfbnet.device.info", self._info, override=True)
        register("tvmfbnet.device.last_fault", lambda: self._fault.json() if self._fault else "", override=True)
        server._ffi_api.ServerLoop(connection.fileno())

    @property
    def address(self) -> str:
        """Where it listens."""
        return join_address(self._settings.host, int(self._listener.getsockname()[1]))
