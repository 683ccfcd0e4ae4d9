"""The server side of TVM's tracker protocol: register, offer the device, and reconnect when the tracker comes back.

Nothing here blocks: the server's loop polls the connection, so a frozen or hostile tracker delays nothing. The Python
server's twin of ``device/server/tracker.cc``.
"""

from __future__ import annotations

import enum
import json
import secrets
import select
import socket
import struct
import time
from typing import Any

from tvmfbnet.rpc.addresses import join_address
from tvmfbnet.rpc.shortlog import ShortLog, printable

_MAGIC = 0x2F271
_PUT, _UPDATE_INFO, _PENDING_KEYS = 3, 5, 7
_ANSWER_LIMIT = 1 << 20
# Timeout of a complete answer; interval between upkeeps; interval between connection attempts.
_ANSWER_SECONDS, _UPKEEP_SECONDS, _RETRY_SECONDS = 5.0, 2.0, 1.0
# Upkeeps in which the match key was given out but no client came, before a new one is offered.
_TAKEN_ROUNDS = 3


class _State(enum.Enum):
    DOWN = enum.auto()
    CONNECTING = enum.auto()
    MAGIC = enum.auto()
    UPDATE = enum.auto()
    IDLE = enum.auto()
    OFFER = enum.auto()
    PENDING = enum.auto()


_ANSWERED = {_State.MAGIC, _State.UPDATE, _State.OFFER, _State.PENDING}


class Registration:
    """Keeps a server registered.

    Args:
        tracker: its host and port.
        key: that the server serves.
        place: host and port that the tracker gives to clients.
        log: for state changes.
    """

    def __init__(self, tracker: tuple[str, int], key: str, place: tuple[str, int], log: ShortLog) -> None:
        self._tracker, self._key, self._place, self._log = tracker, key, place, log
        self._state, self._reported = _State.DOWN, False
        self._connection: socket.socket | None = None
        self._addresses: list[Any] = []
        self._out, self._in, self._taken = b"", bytearray(), 0
        self.match_key = ""  # required of the next client; empty while the device is not on offer
        self.deadline = 0.0  # when `step` is due even without events, on the monotonic clock

    @property
    def watched(self) -> tuple[int, int] | None:
        """Descriptor and events to poll for; None without a connection."""
        if self._connection is None:
            return None
        sends = self._state is _State.CONNECTING or self._out
        return self._connection.fileno(), select.POLLIN | (select.POLLOUT if sends else 0)

    def step(self, events: int, free: bool) -> None:
        """Advances the protocol, given the polled ``events`` and whether the server is ``free`` for a client."""
        expired = time.monotonic() >= self.deadline
        if self._state is _State.DOWN:
            if expired:
                self._begin()
        elif self._state is _State.CONNECTING:
            self._connecting(events, expired)
        else:
            if events and self._exchange(events):
                self._take_answer()
            if self._state in _ANSWERED and time.monotonic() >= self.deadline:
                self._lost("does not answer")
            if self._state is _State.IDLE and free and not self.match_key:
                self._offer()
            elif self._state is _State.IDLE and time.monotonic() >= self.deadline:
                self._ask(_State.PENDING, [_PENDING_KEYS])

    def withdraw(self) -> None:
        """Withdraws the offer, because a session is running."""
        self.match_key = ""

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _begin(self) -> None:
        try:
            self._addresses = socket.getaddrinfo(*self._tracker, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            self._addresses = []
        self._connect()

    def _connect(self) -> None:
        """Connects to the next address of the tracker's host."""
        self.close()
        while self._addresses:
            family, kind, protocol, _, address = self._addresses.pop(0)
            try:
                self._connection = socket.socket(family, kind, protocol)
                self._connection.setblocking(False)
                self._connection.connect_ex(address)
            except OSError:
                self.close()
                continue
            self._state, self.deadline = _State.CONNECTING, time.monotonic() + _ANSWER_SECONDS
            return
        self._lost("does not answer")

    def _connecting(self, events: int, expired: bool) -> None:
        if self._connection is None:
            return
        if events and self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            self._ask(_State.MAGIC, None)
        elif events or expired:
            self._connect()

    def _ask(self, state: _State, message: Any) -> None:
        text = json.dumps(message).encode()
        self._state, self.deadline = state, time.monotonic() + _ANSWER_SECONDS
        self._out = struct.pack("<i", _MAGIC) if state is _State.MAGIC else struct.pack("<i", len(text)) + text
        self._in.clear()

    def _offer(self) -> None:
        # Set before sending: a client may connect before the tracker answers.
        self.match_key, self._taken = f"{self._key}:{secrets.token_hex(8)}", 0
        self._ask(_State.OFFER, [_PUT, self._key, [self._place[1], self.match_key], self._place[0]])

    def _exchange(self, events: int) -> bool:
        """Sends and receives; returns whether the answer is complete."""
        connection, broken = self._connection, events & (select.POLLERR | select.POLLHUP | select.POLLNVAL)
        if connection is None:
            return False
        try:
            if self._out and events & select.POLLOUT:
                self._out = self._out[connection.send(self._out) :]
            while events & select.POLLIN or broken:
                wanted = 4
                if len(self._in) >= 4 and self._state is not _State.MAGIC:
                    (size,) = struct.unpack_from("<i", self._in)
                    if not 0 <= size <= _ANSWER_LIMIT:
                        raise ValueError
                    wanted += size
                if len(self._in) == wanted:
                    return self._state in _ANSWERED
                part = connection.recv(min(wanted - len(self._in), 65536))
                if not part:
                    raise ConnectionError
                if self._state not in _ANSWERED:  # a tracker only answers
                    raise ValueError
                self._in += part
        except BlockingIOError:
            return False
        except OSError:
            self._lost("closed the connection")
        except ValueError:
            self._lost("sends what no tracker sends")
        return False

    def _take_answer(self) -> None:
        state, answer = self._state, bytes(self._in)
        if state is _State.MAGIC:
            if answer != struct.pack("<i", _MAGIC):
                return self._lost("is no tracker")
            return self._ask(
                _State.UPDATE, [_UPDATE_INFO, {"key": f"server:{self._key}", "addr": [self._place[0], self._place[1]]}]
            )
        self._state, self.deadline = _State.IDLE, time.monotonic() + _UPKEEP_SECONDS
        self._in.clear()
        if state is _State.PENDING:
            self._take_pending(answer[4:])
        elif answer[4:] != b"0":
            self._lost(f"refused this server: {printable(answer[4:200].decode(errors='replace'))}")
        elif state is _State.UPDATE:
            self._reported = False

    def _take_pending(self, pending: bytes) -> None:
        if not self.match_key or json.dumps(self.match_key).encode() in pending:
            self._taken = 0
            return
        self._taken += 1
        if self._taken >= _TAKEN_ROUNDS:
            self._log("offered again", "a client was sent here and did not come; offering this device again")
            self._offer()

    def _lost(self, why: str) -> None:
        self.close()
        self.match_key, self._out = "", b""
        self._in.clear()
        self._state, self.deadline = _State.DOWN, time.monotonic() + _RETRY_SECONDS
        if not self._reported:
            self._log("tracker lost", f"tracker {join_address(*self._tracker)} {why}; trying again every second")
        self._reported = True
