"""The phone's end of adb: speaks the wire protocol of adbd over TCP, so that the real ``adb`` takes it for a phone.

It can refuse this computer's key, as a phone does whose question nobody has answered, and run shell scripts (in this
machine's sh). Format: AOSP, packages/modules/adb/protocol.txt and shell_protocol.h.
"""

import os
import socket
import struct
import subprocess
import threading
from contextlib import suppress

CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, MOST_BYTES, TOKEN = 0x01000001, 4096, 1
BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;features=shell_v2"
STDOUT, EXIT = 1, 3


class FakePhone:
    """Listens on a free port of loopback until closed."""

    def __init__(self, authorised: bool = True) -> None:
        self.authorised = authorised
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for connection in (self._listener, *self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, struct.error):
            while True:
                command, first, _, data = _receive(connection)
                if command == CNXN and self.authorised:
                    _send(connection, CNXN, VERSION, MOST_BYTES, BANNER)
                elif command == CNXN or (command == AUTH and first == 2):  # no signature is good enough
                    _send(connection, AUTH, TOKEN, 0, os.urandom(20))
                elif command == OPEN:
                    self._open(connection, first, data)

    def _open(self, connection: socket.socket, host_id: int, service: bytes) -> None:
        kind, _, script = service.rstrip(b"\0").partition(b":")
        if kind.split(b",")[0] != b"shell":
            return _send(connection, CLSE, 0, host_id, b"")
        _send(connection, OKAY, 1, host_id, b"")
        done = subprocess.run(["sh", "-c", script], capture_output=True)
        said = done.stdout + done.stderr
        for kind, data in ((STDOUT, said), (EXIT, bytes([done.returncode]))):
            _send(connection, WRTE, 1, host_id, struct.pack("<BI", kind, len(data)) + data)
        _send(connection, CLSE, 1, host_id, b"")


def _send(connection: socket.socket, command: int, first: int, second: int, data: bytes) -> None:
    head = struct.pack("<6I", command, first, second, len(data), sum(data), command ^ 0xFFFFFFFF)
    connection.sendall(head + data)


def _receive(connection: socket.socket) -> tuple[int, int, int, bytes]:
    command, first, second, size, _, _ = struct.unpack("<6I", _exactly(connection, 24))
    return command, first, second, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError
        parts += part
    return parts
