"""Those whom servers and trackers must live with: silent and slow connections, and trackers that answer nonsense."""

import contextlib
import selectors
import socket
import struct
import threading
import time

RPC_MAGIC, TRACKER_MAGIC = struct.pack("<i", 0xFF271), struct.pack("<i", 0x2F271)


class Crowd:
    """Connections that say nothing and some that say a byte every now and then, opened again where they are closed."""

    def __init__(self, port, silent, slow, start):
        self._port, self._slow, self._start = port, slow, start
        self._silent = [self._connect() for _ in range(silent)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    def _connect(self):
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", self._port), timeout=5)
        return None

    def _drip(self):
        connections = [[self._connect(), 0] for _ in range(self._slow)]
        while not self._stopping.wait(0.2):
            for slot in connections:
                try:
                    slot[0].sendall(self._start[slot[1] : slot[1] + 1] or b"c")
                    slot[1] += 1
                except (OSError, AttributeError):
                    slot[:] = [self._connect(), 0]
        for connection, _ in connections:
            if connection is not None:
                connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        for connection in self._silent:
            if connection is not None:
                connection.close()


class FalseTracker:
    """Listens as a tracker would and answers every message with ``answer`` (bytes), a byte at a time where ``slow``.

    Args:
        magic: what it says first.
        answer: after every message.
        slow: whether answers trickle.
        port: where; a free one if not given.
    """

    def __init__(self, answer=b"", magic=TRACKER_MAGIC, slow=False, port=0):
        self._answer, self._magic, self._slow = answer, magic, slow
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            waiting = {}
            while not self._stopping.is_set():
                for key, _ in selector.select(0.05):
                    if key.data is None:
                        connection, _ = self._listener.accept()
                        selector.register(connection, selectors.EVENT_READ, [self._magic])
                        continue
                    with contextlib.suppress(OSError):
                        if key.fileobj.recv(65536):
                            waiting.setdefault(key.fileobj, bytearray()).extend(key.data[0])
                            key.data[0] = self._answer
                            continue
                    selector.unregister(key.fileobj)
                    waiting.pop(key.fileobj, None)
                    key.fileobj.close()
                for connection, data in waiting.items():
                    size = 1 if self._slow else 65536
                    with contextlib.suppress(OSError):
                        connection.setblocking(False)
                        del data[: connection.send(data[:size]) if data else 0]
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # the listener, too: the port is free again

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()


def framed(text):
    """A tracker's message."""
    return struct.pack("<i", len(text)) + text


def wait_for(condition, seconds=15):
    """Until it holds; AssertionError when it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
