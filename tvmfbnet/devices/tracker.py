"""The RPC tracker: asking it who serves which key, with a deadline, and never waiting for a key that nobody serves."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from tvmfbnet.errors import DeviceError

# The tracker's protocol: a magic number both ways, then JSON messages after their length.
_MAGIC = 0x2F271
_REQUEST, _SUMMARY = 4, 6
_HELLO_SECONDS = 5.0
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


def address_text(server: dict[str, Any]) -> str:
    """A registered server's ``host:port``; TVM reports a pair."""
    address = server["address"]
    return ":".join(str(item) for item in address) if isinstance(address, list | tuple) else str(address)


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
    summary = _ask(host, port, [_SUMMARY], seconds)
    servers = tuple(
        {"key": str(item["key"]).removeprefix("server:"), "address": item.get("addr")}
        for item in summary["server_info"]
    )
    free = {key: int(queue["free"]) for key, queue in summary["queue_info"].items()}
    return TrackerStatus(servers, free)


@dataclass(frozen=True)
class Offer:
    """A device that the tracker gave out: where it listens, and what it will know its client by."""

    host: str
    port: int
    match_key: str


def request_device(endpoint: Endpoint) -> Offer:
    """Waits for a free device. For ever where there is none: only a process with a deadline may call this.

    Raises:
        DeviceError: the tracker is gone.
    """
    host, port, match_key = _ask(endpoint.host, endpoint.port, [_REQUEST, endpoint.key, "", 1], None)
    return Offer(str(host), int(port), str(match_key))


def _ask(host: str, port: int, question: list[Any], seconds: float | None) -> Any:
    """A tracker's answer to one question; without ``seconds`` the answer, but nothing before it, may take for ever."""
    deadline = time.monotonic() + (_HELLO_SECONDS if seconds is None else seconds)
    try:
        with socket.create_connection((host, port), timeout=deadline - time.monotonic()) as connection:
            connection.sendall(struct.pack("<i", _MAGIC))
            if _receive(connection, 4, deadline) != struct.pack("<i", _MAGIC):
                raise DeviceError(f"what listens at {host}:{port} is not a TVM tracker")
            request = json.dumps(question).encode()
            connection.sendall(struct.pack("<i", len(request)) + request)
            if seconds is None:
                deadline = math.inf
            (size,) = struct.unpack("<i", _receive(connection, 4, deadline))
            if not 0 < size <= _ANSWER_LIMIT:
                raise DeviceError(f"what listens at {host}:{port} is not a TVM tracker")
            code, answer = json.loads(_receive(connection, size, deadline))
    except TimeoutError as error:
        raise DeviceError(
            f"tracker {host}:{port} gave no answer within {seconds or _HELLO_SECONDS:g} s; is it frozen?"
        ) from error
    except ConnectionRefusedError as error:
        raise DeviceError(
            f"no tracker at {host}:{port}; start one with: tvmfbnet tracker --host {host} --port {port}"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise DeviceError(f"cannot ask the tracker at {host}:{port}: {error}") from error
    if code != 0:
        raise DeviceError(f"tracker {host}:{port} refused the question: {str(answer)[:100]}")
    return answer


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes; TimeoutError when the deadline passes, ConnectionError when the other side closes."""
    parts = b""
    while len(parts) < size:
        connection.settimeout(None if math.isinf(deadline) else max(deadline - time.monotonic(), 0.001))
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("it closed the connection; it may not be a TVM tracker")
        parts += part
    return parts


def require_key(endpoint: Endpoint, seconds: float) -> None:
    """Waits up to ``seconds`` until a server has registered the key; TVM itself would wait for ever.

    Raises:
        DeviceError: no tracker, or nobody serves the key; says which keys are served instead.
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


def await_key(endpoint: Endpoint, seconds: float) -> None:
    """As :func:`require_key` in the middle of a run: a tracker that went away may come back within ``seconds`` as well.

    Raises:
        DeviceError: tracker or devices did not come back.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return require_key(endpoint, max(0.0, deadline - time.monotonic()))
        except DeviceError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
