"""Client of the RPC tracker: queries with a deadline, which never wait for a key that nobody serves."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter

from tvmfbnet.advice import command
from tvmfbnet.errors import DeviceError
from tvmfbnet.rpc.addresses import join_address, listen_at
from tvmfbnet.rpc.shortlog import printable

AnswerT = TypeVar("AnswerT")

# The tracker protocol: a magic number in both directions, then length-prefixed JSON messages.
_MAGIC = 0x2F271
_REQUEST, _SUMMARY = 4, 6
_HELLO_SECONDS = 5.0
_DEFAULT_HOST = "127.0.0.1"
_ANSWER_LIMIT = 1 << 22


@dataclass(frozen=True)
class Endpoint:
    """Where to request a device: a tracker's address and the key of its devices.

    ``model`` is the only accepted device model; any if empty.
    """

    host: str
    port: int
    key: str
    model: str = ""

    @property
    def address(self) -> str:
        """The tracker as ``host:port``."""
        return join_address(self.host, self.port)


@dataclass(frozen=True)
class TrackerStatus:
    """A tracker's state: one entry per registered server, and the number of free devices per key."""

    servers: tuple[dict[str, Any], ...]
    free: dict[str, int]

    def serving(self, key: str) -> int:
        """Number of servers registered under ``key``, including busy ones."""
        return sum(1 for server in self.servers if server["key"] == key)


def address_text(server: dict[str, Any]) -> str:
    """A registered server's ``host:port``; TVM reports a pair."""
    address = server["address"]
    return join_address(str(address[0]), address[1]) if isinstance(address, list | tuple) else str(address)


def port_is_open(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether the address accepts TCP connections."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def port_is_free(host: str, port: int) -> bool:
    """Whether this machine can listen there."""
    try:
        listen_at(host, port).close()
    except DeviceError:
        return False
    return True


# The fields of a tracker's answer that are used here; the answer is untrusted.
_Name = Annotated[str, StringConstraints(max_length=1024)]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 31)]


class _ServerInfo(BaseModel):
    key: _Name
    addr: Any = None  # one invalid server must not hide the others


class _QueueInfo(BaseModel):
    free: _Count


class _Summary(BaseModel):
    server_info: list[_ServerInfo]
    queue_info: dict[_Name, _QueueInfo]


def _place(value: Any) -> tuple[str, int] | str:
    try:
        return _PLACE.validate_python(value)
    except ValueError:
        return "unknown"


_PLACE: TypeAdapter[tuple[str, int]] = TypeAdapter(tuple[_Name, Annotated[int, Field(ge=1, le=65535)]])
_SUMMARY_ANSWER: TypeAdapter[_Summary] = TypeAdapter(_Summary)
_OFFER_ANSWER: TypeAdapter[tuple[str, int, str]] = TypeAdapter(tuple[_Name, _Port, _Name])


def query_tracker(host: str, port: int, seconds: float = 5.0) -> TrackerStatus:
    """Queries a tracker for its servers and queues. Implements the protocol itself: TVM's client may hang forever.

    Raises:
        DeviceError: nothing listens there, it is not a tracker, or it takes longer than ``seconds``.
    """
    summary = _ask(host, port, [_SUMMARY], _SUMMARY_ANSWER, seconds)
    servers = tuple(
        {"key": printable(item.key.removeprefix("server:"), 200), "address": _place(item.addr)}
        for item in summary.server_info
    )
    return TrackerStatus(servers, {key: queue.free for key, queue in summary.queue_info.items()})


@dataclass(frozen=True)
class Offer:
    """A device assigned by the tracker: its address, and the match key that identifies its client."""

    host: str
    port: int
    match_key: str


def request_device(endpoint: Endpoint) -> Offer:
    """Waits for a free device, possibly forever: only a process with a deadline may call this.

    Raises:
        DeviceError: the tracker is gone.
    """
    question = [_REQUEST, endpoint.key, "", 1]
    return Offer(*_ask(endpoint.host, endpoint.port, question, _OFFER_ANSWER, None))


def _ask(host: str, port: int, question: list[Any], form: TypeAdapter[AnswerT], seconds: float | None) -> AnswerT:
    """A tracker's answer to one question. Without ``seconds`` it may start at any time, then must arrive quickly."""
    where = join_address(host, port)
    stranger = DeviceError(f"what listens at {where} is not a TVM tracker")
    deadline = time.monotonic() + (_HELLO_SECONDS if seconds is None else seconds)
    try:
        with socket.create_connection((host, port), timeout=deadline - time.monotonic()) as connection:
            connection.sendall(struct.pack("<i", _MAGIC))
            if _receive(connection, 4, deadline) != struct.pack("<i", _MAGIC):
                raise stranger
            request = json.dumps(question).encode()
            connection.sendall(struct.pack("<i", len(request)) + request)
            (size,) = struct.unpack("<i", _receive(connection, 4, math.inf if seconds is None else deadline))
            if not 0 < size <= _ANSWER_LIMIT:
                raise stranger
            if seconds is None:
                deadline = time.monotonic() + _HELLO_SECONDS
            code, answer = json.loads(_receive(connection, size, deadline))
            if code == 0:
                return form.validate_python(answer)
    except TimeoutError as error:
        raise DeviceError(
            f"tracker {where} gave no answer within {seconds or _HELLO_SECONDS:g} s; is it frozen?"
        ) from error
    except ConnectionRefusedError as error:
        raise DeviceError(no_tracker(host, port)) from error
    except (ValueError, TypeError, RecursionError) as error:  # includes validation errors and invalid UTF-8
        raise stranger from error
    except OSError as error:
        raise DeviceError(f"cannot ask the tracker at {where}: {error}") from error
    raise DeviceError(f"tracker {where} refused the question: {printable(str(answer))}")


def no_tracker(host: str, port: int) -> str:
    """The message for a missing tracker, with the command that starts one."""
    start = command("tracker", host="" if host == _DEFAULT_HOST else host, port=port)
    there = "" if host in (_DEFAULT_HOST, "localhost", "::1") else " on that machine"
    return f"no tracker at {join_address(host, port)}; start one{there} with {start}"


def _receive(connection: socket.socket, size: int, deadline: float) -> bytes:
    """Exactly ``size`` bytes; TimeoutError when the deadline passes, ConnectionError when the other side closes."""
    parts = bytearray()
    while len(parts) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(None if math.isinf(left) else left)
        part = connection.recv(min(size - len(parts), 65536))
        if not part:
            raise ConnectionError("it closed the connection; it may not be a TVM tracker")
        parts += part
    return bytes(parts)


def require_key(endpoint: Endpoint, seconds: float, remedy: str = "start the server on the device") -> None:
    """Waits up to ``seconds`` for a server to register the key; TVM itself would wait forever.

    Args:
        endpoint: tracker and key.
        seconds: timeout; a missing tracker is an immediate error.
        remedy: what to do if no device serves the key, for the message.

    Raises:
        DeviceError: no tracker, or no device serves the key; lists the served keys.
    """
    deadline = time.monotonic() + seconds
    while True:
        status = query_tracker(endpoint.host, endpoint.port)
        if status.serving(endpoint.key):
            return
        if time.monotonic() > deadline:
            served = printable(", ".join(sorted({server["key"] for server in status.servers})) or "none", 400)
            raise DeviceError(
                f"no device serves key {endpoint.key!r} at tracker {endpoint.address} (served keys: {served}); "
                f"{remedy}, or correct the target's transport.key"
            )
        time.sleep(0.1)


def await_key(endpoint: Endpoint, seconds: float) -> None:
    """Like :func:`require_key`, for use during a run: also waits up to ``seconds`` for a lost tracker to come back.

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
