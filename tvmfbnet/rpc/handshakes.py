"""TVM's handshakes with new connections: many at once, non-blocking, each with an overall deadline.

The Python server's twin of ``device/server/handshake.cc``.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tvmfbnet.rpc.addresses import join_address
from tvmfbnet.rpc.shortlog import ShortLog

_MAGIC = 0xFF271
_MISMATCH = _MAGIC + 2
_HEADER = 8  # the magic number, then the size of the key
_KEY_LIMIT = 1024
_MOST_PENDING = 256
_SECONDS = 3.0


@dataclass(frozen=True)
class Client:
    """An authenticated client: its connection, its address, and its session limit in seconds (0: none)."""

    connection: socket.socket
    peer: str
    seconds: float


@dataclass
class _Pending:
    connection: socket.socket
    peer: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)


def asked_seconds(words: list[str]) -> float:
    """The session limit that a client requests with ``-timeout=SECONDS``; 0 if missing or invalid."""
    for word in words:
        if word.startswith("-timeout="):
            try:
                seconds = float(word.removeprefix("-timeout="))
            except ValueError:
                return 0.0
            return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
    return 0.0


class Handshakes:
    """Connections that have not sent a key yet, the oldest first.

    Args:
        key: that this server serves.
        log: for rejected connections.
    """

    def __init__(self, key: str, log: ShortLog) -> None:
        self._key, self._log = key, log
        self._pending: dict[int, _Pending] = {}

    def add(self, connection: socket.socket, address: Any) -> None:
        """Adds a new connection; with too many, drops the oldest."""
        if len(self._pending) >= _MOST_PENDING:
            self.drop_oldest()
        connection.setblocking(False)
        peer = join_address(str(address[0]), int(address[1]))
        self._pending[connection.fileno()] = _Pending(connection, peer, time.monotonic() + _SECONDS)

    def drop_oldest(self) -> bool:
        """Drops the oldest connection; False when there is none."""
        for number in self._pending:
            self._drop(number, "too many connections that say nothing")
            return True
        return False

    @property
    def descriptors(self) -> list[int]:
        """Descriptors to poll for input."""
        return list(self._pending)

    @property
    def deadline(self) -> float:
        """The earliest deadline, on the monotonic clock."""
        return next((pending.deadline for pending in self._pending.values()), math.inf)

    def expire(self) -> None:
        """Drops connections past their deadline."""
        while self.deadline <= time.monotonic():
            self._drop(next(iter(self._pending)), "not a TVM client, or too slow a one")

    def serve(self, ready: Iterable[int], match_key: str) -> Client | None:
        """Reads from ready connections; one that sends ``match_key`` becomes the client (none can if it is empty)."""
        for number in ready:
            pending = self._pending.get(number)
            if pending is None or not self._read(number, pending):
                continue
            del self._pending[number]
            client = self._judge(pending, match_key)
            if client is not None:
                return client  # other connections are read in the next round
        return None

    def close(self) -> None:
        """Closes all connections silently."""
        for pending in self._pending.values():
            pending.connection.close()
        self._pending.clear()

    def _drop(self, number: int, reason: str) -> None:
        pending = self._pending.pop(number)
        pending.connection.close()
        self._log(reason, f"turned away {pending.peer}: {reason}")

    def _read(self, number: int, pending: _Pending) -> bool:
        """Whether the handshake is complete; never reads beyond it, because the rest belongs to the session."""
        data = pending.received
        while True:
            wanted = _HEADER
            if len(data) >= 4 and struct.unpack_from("<i", data)[0] != _MAGIC:
                break
            if len(data) >= _HEADER:
                (size,) = struct.unpack_from("<i", data, 4)
                if not 0 <= size <= _KEY_LIMIT:
                    break
                wanted += size
                if len(data) == wanted:
                    return True
            try:
                part = pending.connection.recv(wanted - len(data))
            except BlockingIOError:
                return False
            except OSError:
                break
            if not part:
                break
            data += part
        self._drop(number, "not a TVM client")
        return False

    def _judge(self, pending: _Pending, match_key: str) -> Client | None:
        words = pending.received[_HEADER:].decode(errors="replace").split(" ")
        good = bool(match_key) and words[0] == f"client:{match_key}"
        served = f"server:{self._key}".encode()
        try:
            # A new connection's send buffer takes these few bytes at once, or the client is gone.
            answer = struct.pack("<ii", _MAGIC, len(served)) + served if good else struct.pack("<i", _MISMATCH)
            sent = pending.connection.send(answer) == len(answer)
        except OSError:
            sent = False
        if good and sent:
            _keep_alive(pending.connection)
            return Client(pending.connection, pending.peer, asked_seconds(words[1:]))
        pending.connection.close()
        if not good:
            reason = "it does not hold the key that the tracker gave out"
            self._log(reason, f"turned away {pending.peer}: {reason}")
        return None


def _keep_alive(connection: socket.socket) -> None:
    """Enables TCP keepalive, which detects clients whose machine or network vanished."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
