"""The phone's end of adb: speaks the wire protocol of adbd over TCP, so that the real ``adb`` takes it for a phone.

Its files and processes are this machine's, or those of an Android of ``android_root.py``. It can refuse this computer's
key, as a phone does whose question nobody has answered, and be unplugged in the middle of a push. Formats: AOSP,
packages/modules/adb: protocol.txt, SYNC.TXT, shell_protocol.h.
"""

import os
import queue
import shlex
import socket
import stat
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_BYTES, TOKEN, SIGNATURE = 0x01000001, 1 << 18, 1, 2
BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;features=shell_v2"
STDOUT, STDERR, EXIT = 1, 2, 3


class ThisMachine:
    """The system of a phone that has none of its own."""

    def run(self, script: bytes) -> subprocess.CompletedProcess:
        return subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True)

    def path(self, name: str) -> Path:
        return Path(name)

    def in_network(self, work):
        return work()


class FakePhone:
    """Listens on a free port of loopback until closed.

    Args:
        authorised: whether it accepts this computer's key.
        hardware_serial: its ``ro.serialno``, the same over every connection.
        system: whose files, processes and network it has.
        unplugged_after: bytes of a push, after which it is gone.
    """

    def __init__(
        self, authorised: bool = True, hardware_serial: str = "", system=None, unplugged_after: float = float("inf")
    ) -> None:
        self.authorised, self.hardware_serial = authorised, hardware_serial
        self.system, self._bytes_left = system or ThisMachine(), unplugged_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets = [self._listener]
        in_background(self._accept)

    def close(self) -> None:
        for each in self._sockets:
            close(each)

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            at_once(connection)
            self._sockets.append(connection)
            in_background(Connection(connection, self).serve)

    def count(self, size: int) -> None:
        """Of bytes that were pushed."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            self.close()
            raise ConnectionError


class Connection:
    """One adb server's connection, and the streams in it."""

    def __init__(self, connection: socket.socket, phone: FakePhone) -> None:
        self._socket, self._phone, self._lock = connection, phone, threading.Lock()
        serial = phone.hardware_serial
        self._properties = f"getprop() {{ echo {shlex.quote(serial)}; }}\n".encode() if serial else b""
        self._streams: dict[int, Stream] = {}
        self._reversed: dict[bytes, tuple[socket.socket, bytes]] = {}

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        head = struct.pack("<6I", command, first, second, len(data), sum(data), command ^ 0xFFFFFFFF)
        with self._lock:
            self._socket.sendall(head + data)

    def serve(self) -> None:
        try:
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", exactly(self._socket.recv, 24))
                self._take(command, first, second, exactly(self._socket.recv, size))
        finally:
            for listener, _ in self._reversed.values():
                close(listener)

    def _take(self, command: int, first: int, second: int, data: bytes) -> None:
        if command == CNXN and self._phone.authorised:
            self.send(CNXN, VERSION, MOST_BYTES, BANNER)
        elif command == CNXN or (command == AUTH and first == SIGNATURE):  # no signature is good enough
            self.send(AUTH, TOKEN, 0, os.urandom(20))
        elif command == OPEN:
            stream = self._new_stream(first)
            self.send(OKAY, stream.number, first)
            in_background(self._run, stream, data.rstrip(b"\0"))
        elif second in self._streams:
            self._streams[second].take(command, first, data)

    def _new_stream(self, other: int) -> "Stream":
        stream = Stream(self, len(self._streams) + 1, other)
        self._streams[stream.number] = stream
        return stream

    def _run(self, stream: "Stream", service: bytes) -> None:
        try:
            self._serve(stream, service)
        finally:
            stream.close()

    def _serve(self, stream: "Stream", service: bytes) -> None:
        kind, _, argument = service.partition(b":")
        if kind.split(b",")[0] == b"shell":
            run_shell(stream, self._phone.system.run(self._properties + argument))
        elif kind == b"sync":
            run_sync(stream, self._phone)
        elif kind == b"tcp":
            there = ("127.0.0.1", int(argument))
            pump(stream, self._phone.system.in_network(lambda: socket.create_connection(there)))
        elif kind == b"reverse":
            self._reverse(stream, argument)

    def _reverse(self, stream: "Stream", request: bytes) -> None:
        what, _, ports = request.partition(b":")
        answer = b"OKAY"
        if what == b"forward":
            here, there = ports.split(b";")
            if here in self._reversed:  # as adbd does, which binds again
                close(self._reversed.pop(here)[0])
            address = ("127.0.0.1", int(here[4:]))
            self._reversed[here] = (self._phone.system.in_network(lambda: socket.create_server(address)), there)
            in_background(self._accept_reversed, *self._reversed[here])
        elif what == b"list-forward":
            listed = b"".join(b"UsbFfs %s %s\n" % (here, there) for here, (_, there) in self._reversed.items())
            answer = b"%04x%s" % (len(listed), listed)  # the phone answers this one without OKAY
        else:
            close(self._reversed.pop(ports)[0])
        stream.write(answer)

    def _accept_reversed(self, listener: socket.socket, there: bytes) -> None:
        while True:
            connection, _ = listener.accept()
            stream = self._new_stream(0)
            self.send(OPEN, stream.number, 0, there + b"\0")
            stream.wait_until_open()
            in_background(pump, stream, connection)


class Stream:
    """One service's bytes both ways; a write waits until the other end took it."""

    def __init__(self, connection: Connection, number: int, other: int) -> None:
        self._connection, self.number, self._other = connection, number, other
        self._inbox: queue.Queue[bytes] = queue.Queue()
        self._acknowledged = threading.Semaphore(0)
        self._unread, self._closed = b"", False

    def take(self, command: int, first: int, data: bytes) -> None:
        self._other = first or self._other
        if command == WRTE:
            self._inbox.put(data)
            self._connection.send(OKAY, self.number, self._other)
        elif command == OKAY:
            self._acknowledged.release()
        elif command == CLSE:
            self._closed = True
            self._inbox.put(b"")
            self._acknowledged.release()

    def wait_until_open(self) -> None:
        self._acknowledged.acquire()

    def read(self, most: int) -> bytes:
        """Up to ``most`` bytes; none at the end."""
        if not self._unread:
            self._unread = self._inbox.get()
        part, self._unread = self._unread[:most], self._unread[most:]
        return part

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MOST_BYTES):
            if self._closed:
                raise ConnectionError
            self._connection.send(WRTE, self.number, self._other, data[start : start + MOST_BYTES])
            self._acknowledged.acquire()

    def close(self) -> None:
        if not self._closed:
            self._connection.send(CLSE, self.number, self._other)


def run_shell(stream: Stream, done: subprocess.CompletedProcess) -> None:
    for kind, data in ((STDOUT, done.stdout), (STDERR, done.stderr), (EXIT, bytes([done.returncode & 0xFF]))):
        stream.write(struct.pack("<BI", kind, len(data)) + data)


def run_sync(stream: Stream, phone: FakePhone) -> None:
    """``adb push``."""
    path, content = Path(), b""
    while True:
        head = exactly(stream.read, 8)
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        data = exactly(stream.read, size) if name in (b"STAT", b"SEND", b"DATA") else b""
        if name == b"STAT":
            file = phone.system.path(data.decode())
            status = file.stat() if file.exists() else None
            answer = (status.st_mode, status.st_size, int(status.st_mtime)) if status else (0, 0, 0)
            stream.write(b"STAT" + struct.pack("<3I", *answer))
        elif name == b"SEND":
            path, content = phone.system.path(data.rpartition(b",")[0].decode()), b""
        elif name == b"DATA":
            content += data
            phone.count(len(data))
        elif name == b"DONE":
            try:
                path.write_bytes(content)
                path.chmod(stat.S_IRUSR | stat.S_IWUSR)  # a phone keeps no run bit either
                stream.write(b"OKAY" + struct.pack("<I", 0))
            except OSError as error:
                path.unlink(missing_ok=True)
                problem = f"write failed: {os.strerror(error.errno)}"
                stream.write(b"FAIL" + struct.pack("<I", len(problem)) + problem.encode())
        else:
            return


def pump(stream: Stream, connection: socket.socket) -> None:
    """Carries bytes both ways until one end closes."""
    at_once(connection)

    def back() -> None:
        try:
            while data := connection.recv(MOST_BYTES):
                stream.write(data)
        finally:
            stream.close()

    in_background(back)
    try:
        while data := stream.read(MOST_BYTES):
            connection.sendall(data)
    finally:
        close(connection)


def in_background(work, *arguments) -> None:
    """A thread whose end by a closed connection is no news."""

    def run() -> None:
        with suppress(OSError):
            work(*arguments)

    threading.Thread(target=run, daemon=True).start()


def at_once(connection: socket.socket) -> None:
    """Sends small messages without waiting for more, as adbd does."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def exactly(read, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = read(size - len(parts))
        if not part:
            raise ConnectionError
        parts += part
    return parts
