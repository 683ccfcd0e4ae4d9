"""The RPC tracker: asking it who serves which key, with a deadline, and never waiting for a key that nobody serves."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from tvmfbnet.errors import DeviceError

# The tracker's protocol: a magic number both ways, then JSON messages after their length.
_MAGIC = 0x2F271
_SUMMARY = 6
_ANSWER_LIMIT = 1 << 24


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


def query_tracker(host: str, port: int, seconds: float = 5.0) -> TrackerStatus:
    """Asks a tracker for its servers and queues. Speaks the tracker's protocol itself: TVM's client may wait for ever.

    Raises:
        DeviceError: nothing listens there, what listens is not a tracker, or it takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(struct.pack("<i", _MAGIC))
            if _receive(connection, 4, deadline) != struct.pack("<i", _MAGIC):
                raise DeviceError(f"what listens at {host}:{port} is not a TVM tracker")
            request = json.dumps([_SUMMARY]).encode()
            connection.sendall(struct.pack("<i", len(request)) + request)
            (size,) = struct.unpack("<i", _receive(connection, 4, deadline))
            if not 0 < size <= _ANSWER_LIMIT:
                raise DeviceError(f"what listens at {host}:{port} is not a TVM tracker")
            code, summary = json.loads(_receive(connection, size, deadline))
    except TimeoutError as error:
        raise DeviceError(f"tracker {host}:{port} gave no answer within {seconds:g} s; is it frozen?") from error
    except ConnectionRefusedError as error:
        raise DeviceError(
            f"no tracker at {host}:{port}; start one with: tvmfbnet tracker --host {host} --port {port}"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise DeviceError(f"cannot ask the tracker at {host}:{port}: {error}") from error
    if code != 0:
        raise DeviceError(f"tracker {host}:{port} refused the question: {str(summary)[:100]}")
    servers = tuple(
        {"key": str(item["key"]).removeprefix("server:"), "address": item.get("addr")}
        for item in summary["server_info"]
    )
    free = {key: int(queue["free"]) for key, queue in summary["queue_info"].items()}
    return TrackerStatus(servers, free)


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes; TimeoutError when the deadline passes, ConnectionError when the other side closes."""
    parts = b""
    while len(parts) < size:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("it closed the connection; it may not be a TVM tracker")
        parts += part
    return parts


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
