"""The RPC tracker: asking it who serves which key, with a deadline, and never waiting for a key that nobody serves."""

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

# The tracker's protocol: a magic number both ways, then JSON messages after their length.
_MAGIC = 0x2F271
_REQUEST, _SUMMARY = 4, 6
_HELLO_SECONDS = 5.0
_DEFAULT_HOST = "127.0.0.1"
_ANSWER_LIMIT = 1 << 22


@dataclass(frozen=True)
class Endpoint:
    """Where a device is asked for: a tracker's address and the key that its devices registered under.

    ``model`` is the only device model that is taken there; any if empty.
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
    """What a tracker knows: one entry a registered server, and how many are free for each key."""

    servers: tuple[dict[str, Any], ...]
    free: dict[str, int]

    def serving(self, key: str) -> int:
        """How many servers registered ``key``, busy ones included."""
        return sum(1 for server in self.servers if server["key"] == key)


def address_text(server: dict[str, Any]) -> str:
    """A registered server's ``host:port``; TVM reports a pair."""
    address = server["address"]
    return join_address(str(address[0]), address[1]) if isinstance(address, list | tuple) else str(address)


def port_is_open(host: str, port: int, seconds: float = 2.0) -> bool:
    """Whether something accepts TCP connections there."""
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


# What a tracker answers, as far as it is used here; it may be anyone's.
_Name = Annotated[str, StringConstraints(max_length=1024)]
_Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
_Count = Annotated[int, Field(strict=True, ge=0, le=1 << 31)]


class _ServerInfo(BaseModel):
    key: _Name
    addr: Any = None  # one server's nonsense hides no other server


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
    """Asks a tracker for its servers and queues. Speaks the tracker's protocol itself: TVM's client may wait for ever.

    Raises:
        DeviceError: nothing listens there, what listens is not a tracker, or it takes longer than ``seconds``.
    """
    summary = _ask(host, port, [_SUMMARY], _SUMMARY_ANSWER, seconds)
    servers = tuple(
        {"key": printable(item.key.removeprefix("server:"), 200), "address": _place(item.addr)}
        for item in summary.server_info
    )
    return TrackerStatus(servers, {key: queue.free for key, queue in summary.queue_info.items()})


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
    question = [_REQUEST, endpoint.key, "", 1]
    return Offer(*_ask(endpoint.host, endpoint.port, question, _OFFER_ANSWER, None))


def _ask(host: str, port: int, question: list[Any], form: TypeAdapter[AnswerT], seconds: float | None) -> AnswerT:
    """A tracker's answer to one question; without ``seconds`` it may begin at any time, but take no longer then."""
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
    except (ValueError, TypeError, RecursionError) as error:  # also pydantic's, and text that is no UTF-8
        raise stranger from error
    except OSError as error:
        raise DeviceError(f"cannot ask the tracker at {where}: {error}") from error
    raise DeviceError(f"tracker {where} refused the question: {printable(str(answer))}")


def no_tracker(host: str, port: int) -> str:
    """The message that nothing listens at a tracker's address, with the command that starts one there."""
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
    """Waits up to ``seconds`` until a server has registered the key; TVM itself would wait for ever.

    Args:
        endpoint: tracker and key.
        seconds: how long; no tracker at all is an error at once.
        remedy: what to do where nobody serves the key, for the message.

    Raises:
        DeviceError: no tracker, or nobody serves the key; says which keys are served instead.
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
