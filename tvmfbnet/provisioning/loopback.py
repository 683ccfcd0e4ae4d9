"""Starts and stops a tracker and servers on this machine's loopback, for targets with ``local`` transport.

A server is either the Python one or our device program, which may run under an emulator; a simulated device has a cycle
server beside it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tvmfbnet.errors import DeviceError
from tvmfbnet.progress import step
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.service import MAX_SESSION_SECONDS, Service
from tvmfbnet.provisioning.simulated_device import start_simulated
from tvmfbnet.provisioning.ways import device_command
from tvmfbnet.rpc.tracker import Endpoint, port_is_free, require_key
from tvmfbnet.targets.definition import Target, require_cores

LOOPBACK = "127.0.0.1"


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


def start_server(target: Target, endpoint: Endpoint, with_tracker: bool = False) -> Service:
    """Starts a server for ``target`` on this machine, registered with the endpoint's tracker under its key.

    Args:
        target: whose server it is.
        endpoint: of the tracker, and the key.
        with_tracker: whether the server, which is the Python one, brings that tracker along.

    Raises:
        UserError: a native server cannot be built, its emulator is not installed, or the target names cores that this
            machine lacks.
    """
    require_cores(target)
    if target.is_simulated:
        return start_simulated(target, endpoint)
    if target.transport.server == "native":
        command = server_command(target, str(build_programs(target).server), endpoint.address, endpoint.key)
        command += ["--port", "0", "--until-stdin-closes", "--max-session", str(MAX_SESSION_SECONDS)]
        return Service(["server"], program=command)
    arguments = ["server", "--host", LOOPBACK, "--port", "0", "--max-session", str(MAX_SESSION_SECONDS)]
    arguments += ["--tracker", endpoint.address, "--key", endpoint.key]
    if target.cores:
        arguments += ["--cores", target.cores]
    if with_tracker:
        arguments.append("--with-tracker")
    return Service(arguments, threads=target.threads)


@contextmanager
def local_device(target: Target) -> Iterator[Endpoint]:
    """Runs a tracker and a server for ``target`` on loopback for the block."""
    endpoint = Endpoint(LOOPBACK, free_port(), target.transport.key)
    with ExitStack() as stack:
        with step("starting a tracker and a device server on this machine"):
            services = []
            # The Python server forks its tracker, which then has nothing to load; beside any other one it starts alone.
            in_python = not target.is_simulated and target.transport.server != "native"
            if not in_python:
                services.append(_start_tracker(endpoint))
                stack.callback(services[-1].stop)
            services.append(start_server(target, endpoint, with_tracker=in_python))
            stack.callback(services[-1].stop)
            for service in services:
                service.wait_until_ready()
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
