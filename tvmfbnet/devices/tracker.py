"""The RPC tracker: asking it who serves which key, with a deadline, and never waiting for a key that nobody serves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tvmfbnet.errors import DeviceError

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Endpoint:
    """Where a device is asked for: a tracker's address and the key that its devices registered under."""

    host: str
    port: int
    key: str

    @property
    def address(self) -> str:
        """The tracker as ``host:port``."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class TrackerStatus:
    """What a tracker knows: one entry a registered server, and how many are free for each key."""

    servers: tuple[dict[str, Any], ...]
    free: dict[str, int]

    def serving(self, key: str) -> int:
        """How many servers registered ``key``, busy ones included."""
        return sum(1 for server in self.servers if server["key"] == key)


def port_is_open(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def port_is_free(host: str, port: int) -> bool:
    """Whether this machine can listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def with_deadline(call: Callable[[], ResultT], seconds: float, what: str) -> ResultT:
    """Runs ``call`` in a thread and waits at most ``seconds``: TVM's own tracker calls may block for ever."""
    results: list[ResultT] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise DeviceError(f"{what} failed: {failures[0]}") from failures[0]
    if not results:
        raise DeviceError(f"{what} gave no answer within {seconds:g} s")
    return results[0]


def query_tracker(host: str, port: int, seconds: float = 5.0) -> TrackerStatus:
    """Asks a tracker for its servers and queues.

    Raises:
        DeviceError: nothing listens there, or what listens is not a tracker.
    """
    if not port_is_open(host, port):
        raise DeviceError(f"no tracker at {host}:{port}; start one with: tvmfbnet tracker --host {host} --port {port}")

    from tvm import rpc  # takes seconds to load, which are not the tracker's

    def ask() -> dict[str, Any]:
        return dict(rpc.connect_tracker(host, port).summary())

    summary = with_deadline(ask, seconds, f"tracker {host}:{port}")
    servers = tuple(
        {"key": str(item["key"]).removeprefix("server:"), "address": item.get("addr")}
        for item in summary["server_info"]
    )
    free = {key: int(queue["free"]) for key, queue in summary["queue_info"].items()}
    return TrackerStatus(servers, free)


def require_key(endpoint: Endpoint, seconds: float) -> None:
    """Waits up to ``seconds`` until a server has registered the key; TVM itself would wait for ever.

    Raises:
        DeviceError: nobody serves the key; says which keys are served instead.
    """
    deadline = time.monotonic() + seconds
    while True:
        status = query_tracker(endpoint.host, endpoint.port)
        if status.serving(endpoint.key):
            return
        if time.monotonic() > deadline:
            served = ", ".join(sorted({server["key"] for server in status.servers})) or "none"
            raise DeviceError(
                f"no device serves key {endpoint.key!r} at tracker {endpoint.address} (served keys: {served}); "
                "start the server on the device, or check the target's transport.key"
            )
        time.sleep(0.1)
