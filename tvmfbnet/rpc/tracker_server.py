"""TVM's tracker, running in this process and hardened against untrusted clients.

Queues and protocol are TVM's. On top of them, messages are validated before TVM's handlers see them (some would break
all later summaries, or leave a dead device in a queue), the number of connections is limited, silent ones time out, and
a bad message costs one short line instead of a traceback.
"""

from __future__ import annotations

import heapq
import json
import logging
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tvm.rpc import tracker
from tvm.rpc.base import TrackerCode

from tvmfbnet.rpc.addresses import listen_at
from tvmfbnet.rpc.shortlog import ShortHandler, ShortLog

_MAGIC = struct.pack("<i", tracker.RPC_TRACKER_MAGIC)
_MOST_CONNECTIONS = 1000
_MOST_KEYS = 1000
_MOST_PENDING = 1000  # offers, or requests, per connection
_SILENT_SECONDS = 5.0
_MESSAGE_LIMIT = 1 << 14
_NAME_LIMIT = 1024
# Bytes buffered for a client that does not read.
_UNREAD_LIMIT = 1 << 22
_LOOK_SECONDS = 0.5


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _NAME_LIMIT and value.isprintable()


def _is_port(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _is_host(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _NAME_LIMIT and value.isprintable())


def _is_put(words: Sequence[Any]) -> bool:
    """``[PUT, key, [port, match key], host]``, where the match key belongs to the key: TVM removes offers by it."""
    if len(words) not in (3, 4) or not isinstance(words[2], list) or len(words[2]) != 2:
        return False
    key, (port, match_key) = words[1], words[2]
    named = _is_name(key) and _is_name(match_key) and match_key.rpartition(":")[0] == key
    return named and _is_port(port) and (len(words) == 3 or _is_host(words[3]))


def _is_info(words: Sequence[Any]) -> bool:
    """``[UPDATE_INFO, {"key": "server:KEY", "addr": [host, port]}]``; some of TVM's servers send the port as text."""
    info = words[1] if len(words) == 2 else None
    if not isinstance(info, dict) or not _is_name(info.get("key")):
        return False
    place = info.get("addr")
    if not isinstance(place, list) or len(place) != 2 or not _is_host(place[0]):
        return False
    port = place[1]
    return _is_port(
        int(port) if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) < 6 else port
    )


def _is_request(words: Sequence[Any]) -> bool:
    """``[REQUEST, key, user, priority]``."""
    return (
        len(words) == 4
        and _is_name(words[1])
        and isinstance(words[2], str)
        and len(words[2]) <= _NAME_LIMIT
        and type(words[3]) is int
        and abs(words[3]) < 1 << 31
    )


_CHECKS: dict[int, Callable[[Sequence[Any]], bool]] = {
    TrackerCode.PING: lambda words: len(words) == 1,
    TrackerCode.SUMMARY: lambda words: len(words) == 1,
    TrackerCode.GET_PENDING_MATCHKEYS: lambda words: len(words) == 1,
    TrackerCode.PUT: _is_put,
    TrackerCode.UPDATE_INFO: _is_info,
    TrackerCode.REQUEST: _is_request,
}


def is_message(value: Any) -> bool:
    """Whether TVM's handlers can safely process this message. STOP is rejected: a signal ends this tracker."""
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        return False
    check = _CHECKS.get(value[0])
    return check is not None and check(value)


class _Connection(tracker.TCPEventHandler):  # type: ignore[misc]
    """One connection. Its first bytes may arrive slowly; any error closes it with one log line."""

    def __init__(self, owner: _Tracker, sock: socket.socket, address: Any) -> None:
        self.greeted, self.since, self.waiting = False, time.monotonic(), 0
        super().__init__(owner, sock, address)

    def on_message(self, message: bytes) -> None:
        """Processes received bytes."""
        self._data += message
        try:
            if not self.greeted:
                if not _MAGIC.startswith(self._data[:4]):
                    return self.refuse("is no client of a tracker")
                if len(self._data) < 4:
                    return None
                del self._data[:4]
                self.greeted = True
                self.write_message(_MAGIC)
            while self._sock is not None and len(self._data) >= 4:
                (size,) = struct.unpack_from("<i", self._data)
                if not 0 < size <= _MESSAGE_LIMIT:
                    return self.refuse("sends a message of an impossible size")
                if len(self._data) < 4 + size:
                    return None
                text = bytes(self._data[4 : 4 + size])
                del self._data[: 4 + size]
                self._take(text)
        except OSError:
            self.close()  # the client disconnected
        return None

    def _take(self, text: bytes) -> None:
        try:
            words = json.loads(text)
        except (ValueError, RecursionError):
            words = None
        if not is_message(words):
            return self.refuse("sends what is no message for a tracker")
        if words[0] == TrackerCode.PUT and (
            len(self.pending_matchkeys) >= _MOST_PENDING or words[2][1] in self.pending_matchkeys
        ):
            return self.refuse("offers too many devices, or one twice")
        if words[0] == TrackerCode.REQUEST and self.waiting >= _MOST_PENDING:
            return self.refuse("asks for too many devices")
        if words[0] in (TrackerCode.PUT, TrackerCode.REQUEST) and not self._tracker.makes_room(words[1]):
            return self.refuse("asks for one key too many")
        if sum(map(len, self._pending_write)) > _UNREAD_LIMIT:
            return self.refuse("does not read its answers")
        if words[0] == TrackerCode.UPDATE_INFO:
            words[1] = {name: words[1][name] for name in ("key", "addr")}  # relayed to all clients, so nothing else
        try:
            self._request(words) if words[0] == TrackerCode.REQUEST else self.call_handler(words)
        except Exception as error:
            return self.refuse(f"could not be served ({type(error).__name__})")
        # Drop offers that were assigned or withdrawn; TVM keeps them for the life of the connection.
        self.put_values[:] = [value for value in self.put_values if value[-1] in self.pending_matchkeys]
        return None

    def _request(self, words: Sequence[Any]) -> None:
        """Like TVM's, but counted; a closing connection drops its requests (see :meth:`_Tracker.close`)."""
        self.waiting += 1

        def answer(value: Any) -> bool:
            self.waiting -= 1
            if self._sock is None:
                return False
            try:
                self.ret_value([TrackerCode.SUCCESS, value])
            except OSError:
                return False
            return True

        self._tracker.request(words[1], self, words[3], answer)

    def refuse(self, why: str) -> None:
        """Closes the connection and logs why."""
        self._tracker.log(why, f"closed the connection of {self._addr[0]}:{self._addr[1]}: it {why}")
        self.close()

    def on_error(self, err: Exception) -> None:
        """Closes the connection silently after a network error."""
        self.close()


class _Queue(tracker.PriorityScheduler):  # type: ignore[misc]
    """Free devices, and the requests that wait for one."""

    def request(self, user: Any, priority: int, callback: Callable[[Any], bool]) -> None:
        """Queues a request of a connection (``user``)."""
        heapq.heappush(self._requests, (-priority, self._request_cnt, user, callback))
        self._request_cnt += 1
        self._schedule()

    def forget(self, connection: _Connection) -> None:
        """Drops a connection's requests."""
        self._requests[:] = [item for item in self._requests if item[2] is not connection]
        heapq.heapify(self._requests)


class _Tracker(tracker.TrackerServerHandler):  # type: ignore[misc]
    """All connections and queues."""

    def __init__(self, listener: socket.socket, log: ShortLog) -> None:
        self.log = log
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(_MOST_CONNECTIONS, soft - 64 if soft > 128 else soft // 2)
        super().__init__(listener, "")
        self._look()

    def _on_event(self, _: Any) -> None:
        for _number in range(128):  # then serve others
            try:
                connection, address = self._sock.accept()
            except OSError:
                return
            if len(self._connections) >= self._most and not self._drop_silent(0.0):
                self.log("full", f"turned away {address[0]}:{address[1]}: too many connections")
                connection.close()
                continue
            _Connection(self, connection, address)

    def _drop_silent(self, seconds: float) -> bool:
        """Closes the oldest connection that has been silent for ``seconds``; returns whether there was one."""
        silent = [one for one in self._connections if not one.greeted and time.monotonic() - one.since >= seconds]
        if silent:
            min(silent, key=lambda one: float(one.since)).refuse("says nothing")
        return bool(silent)

    def _look(self) -> None:
        while self._drop_silent(_SILENT_SECONDS):
            pass
        self._ioloop.call_later(_LOOK_SECONDS, self._look)

    def create_scheduler(self, key: str) -> _Queue:
        """A queue for a key."""
        return _Queue(key)

    def makes_room(self, key: str) -> bool:
        """Whether this key has a queue, or room for one after idle queues are dropped."""
        queues = self._scheduler_map
        if key not in queues and len(queues) >= _MOST_KEYS:
            for name in [name for name, queue in queues.items() if not queue._values and not queue._requests]:
                del queues[name]
        return key in queues or len(queues) < _MOST_KEYS

    def close(self, conn: _Connection) -> None:
        """Removes a connection with its requests and offers."""
        self._connections.discard(conn)
        if conn.waiting:
            for queue in self._scheduler_map.values():
                queue.forget(conn)
        for value in conn.put_values:
            queue = self._scheduler_map.get(value[-1].rpartition(":")[0])
            if queue is not None:
                queue.remove(value)


def serve_tracker(host: str, port: int, ready: Callable[[], None]) -> None:
    """Runs a tracker until SIGINT, SIGTERM or SIGHUP.

    Args:
        host: address to listen on.
        port: TCP port.
        ready: called once it listens.

    Raises:
        DeviceError: it cannot listen there.
    """
    import asyncio

    from tornado import ioloop

    log = ShortLog()
    for name in ("RPCTracker", "tornado", "tornado.application", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [ShortHandler(log)], False
        logger.setLevel(logging.WARNING)
    listener = listen_at(host, port)
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard > 0 else 4096, hard))
    asyncio.set_event_loop(asyncio.new_event_loop())
    served = _Tracker(listener, log)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_event_loop().add_signal_handler(number, ioloop.IOLoop.current().stop)
    ready()
    served.run()
