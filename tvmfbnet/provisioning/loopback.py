"""Starts and stops a tracker and servers on this machine's loopback, for targets with ``local`` transport.

A server is either the Python one or our device program, which may run under an emulator.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from tvmfbnet.errors import DeviceError
from tvmfbnet.progress import step
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.ways import device_command
from tvmfbnet.rpc.serve import READY
from tvmfbnet.rpc.tracker import Endpoint, port_is_free, require_key
from tvmfbnet.targets.definition import Target, require_cores

LOOPBACK = "127.0.0.1"
_START_SECONDS = 60.0
_DRAIN_SECONDS = 1.0
# No other client waits for a private server.
_MAX_SESSION_SECONDS = 86400


def free_port() -> int:
    """A TCP port that is free right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((LOOPBACK, 0))
        return int(listener.getsockname()[1])


def require_free_port(host: str, port: int) -> None:
    """Raises a DeviceError if a port is in use."""
    if not port_is_free(host, port):
        raise DeviceError(
            f"cannot listen on {host}: port {port} is in use, or the address is not this machine's; "
            "choose others with --port and --host, or stop what listens there"
        )


class Service:
    """A child process that prints ``ready`` and serves until :meth:`stop`, or until this process dies.

    Args:
        arguments: of ``python -m tvmfbnet.rpc.serve``; the first one names the service.
        threads: worker threads of its TVM runtime.
        program: command to run instead of ``serve``; it must exit when its stdin closes.
    """

    def __init__(self, arguments: Sequence[str], threads: int = 1, program: Sequence[str] = ()) -> None:
        serve = [sys.executable, "-m", "tvmfbnet.rpc.serve", *arguments, "--parent", str(os.getpid())]
        self.process = subprocess.Popen(
            program or serve,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "TVM_NUM_THREADS": str(threads)},
        )
        self._errors: list[bytes] = []
        self._drain = threading.Thread(target=self._collect_errors, daemon=True)
        self._drain.start()
        self._what = arguments[0]

    def _collect_errors(self) -> None:
        stream = self.process.stderr
        if stream is not None:
            with stream:
                for line in stream:
                    self._errors = [*self._errors[-200:], line]

    @property
    def log(self) -> str:
        """The last lines of the service's stderr."""
        return b"".join(self._errors).decode(errors="replace")

    def wait_until_ready(self) -> None:
        """Waits until the service listens.

        Raises:
            DeviceError: it exited or printed nothing for a minute; carries its last message.
        """
        stdout, what = self.process.stdout, self._what
        if stdout is None:
            raise DeviceError(f"the {what} has no output to read")
        lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            line = b""
        if line.strip() != READY.encode():
            self.stop()
            reason = self.log.strip().splitlines()
            told = reason[-1].removeprefix("error: ") if reason else "no message"
            raise DeviceError(f"the {what} did not start: {told}")

    def stop(self) -> None:
        """Kills the process and everything it started, and closes its pipes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._drain.join(_DRAIN_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def start_server(target: Target, endpoint: Endpoint) -> Service:
    """Starts a server for ``target`` on this machine, registered with the endpoint's tracker under its key.

    Raises:
        UserError: a native server cannot be built, its emulator is not installed, or the target names cores that this
            machine lacks.
    """
    require_cores(target)
    if target.transport.server == "native":
        command = server_command(target, str(build_programs(target).server), endpoint.address, endpoint.key)
        command += ["--port", "0", "--until-stdin-closes", "--max-session", str(_MAX_SESSION_SECONDS)]
        return Service(["server"], program=command)
    arguments = ["server", "--host", LOOPBACK, "--port", "0", "--max-session", str(_MAX_SESSION_SECONDS)]
    arguments += ["--tracker", endpoint.address, "--key", endpoint.key]
    if target.cores:
        arguments += ["--cores", target.cores]
    return Service(arguments, threads=target.threads)


@contextmanager
def local_device(target: Target) -> Iterator[Endpoint]:
    """Runs a tracker and a server for ``target`` on loopback for the block."""
    endpoint = Endpoint(LOOPBACK, free_port(), target.transport.key)
    with ExitStack() as stack:
        with step("starting a tracker and a device server on this machine"):
            # Both start in parallel; a server waits for its tracker.
            tracker = _start_tracker(endpoint)
            stack.callback(tracker.stop)
            server = start_server(target, endpoint)
            stack.callback(server.stop)
            tracker.wait_until_ready()
            server.wait_until_ready()
            require_key(endpoint, target.timeouts.connect)
        yield endpoint


def _start_tracker(endpoint: Endpoint) -> Service:
    return Service(["tracker", "--host", endpoint.host, "--port", str(endpoint.port)])


@contextmanager
def local_tracker(key: str) -> Iterator[Endpoint]:
    """Runs a tracker on a free loopback port for the block; yields the endpoint of its address and ``key``."""
    endpoint = Endpoint(LOOPBACK, free_port(), key)
    tracker = _start_tracker(endpoint)
    try:
        tracker.wait_until_ready()
        yield endpoint
    finally:
        tracker.stop()


@contextmanager
def connect_device(target: Target) -> Iterator[Endpoint]:
    """Connects to a target's devices: yields the endpoint of the target's tracker, or of a ``local`` one started here.

    Raises:
        DeviceError: no tracker, or no device serves the target's key.
    """
    if target.transport.kind == "local":
        with local_device(target) as endpoint:
            yield endpoint
    else:
        yield require_served(target, target.timeouts.connect)


def require_served(target: Target, seconds: float) -> Endpoint:
    """Waits for a device at a target's tracker, and returns the endpoint.

    Args:
        target: with ``tracker`` transport.
        seconds: timeout for a device to register.

    Raises:
        DeviceError: no tracker, or no device serves the target's key; says how to start one.
    """
    transport = target.transport
    endpoint = Endpoint(transport.host, transport.port, transport.key)
    with step(f"waiting for device {endpoint.key} at tracker {endpoint.address}", patience=1.0):
        require_key(endpoint, seconds, f"start its server with {device_command('start', target)}")
    return endpoint
