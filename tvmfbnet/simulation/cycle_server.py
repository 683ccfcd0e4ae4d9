"""The service that an emulated device asks for the cycles of its blocks, on a Unix socket.

A request is ``u32 count``, then ``u32 size`` and the bytes of each block; the answer is ``count`` doubles, all little
endian. A connection may carry several requests. NaN answers a block that could not be worked out.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tvmfbnet.errors import DeviceError, TvmfbnetError, UserError
from tvmfbnet.progress import say
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import Core, load_core

_MOST_BLOCKS = 1 << 20
_MOST_BYTES = 1 << 20
_PATH_BYTES = 107  # of a Unix socket's address


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class CycleServer:
    """Answers requests until closed; each connection has a thread of its own.

    Args:
        cycles: what answers.
        path: of the socket; a socket that a killed server left there is replaced.

    Raises:
        DeviceError: the socket cannot be made there.
    """

    def __init__(self, cycles: BlockCycles, path: Path) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                # An emulated device that ends in the middle of a request is no error of this service.
                with suppress(ConnectionError, BrokenPipeError):
                    while (blocks := _read_request(self.rfile)) is not None:
                        self.wfile.write(_answer(cycles, blocks))

        self._path = path
        _remove_stale(path)
        try:
            self._server = _Threads(str(path), Handler)
        except OSError as error:
            raise DeviceError(f"cannot listen on {path}: {error.strerror or error}") from error

    def serve(self) -> None:
        """Serves until :meth:`close` is called in another thread."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stops serving and removes the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Threads(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def serving(core: Core, folder: Path, path: Path) -> Iterator[None]:
    """Serves in a thread of this process, for as long as the block runs.

    Args:
        core: the core.
        folder: of the cache of :class:`BlockCycles`.
        path: of the socket.
    """
    server = CycleServer(BlockCycles(core, folder), path)
    thread = threading.Thread(target=server.serve, name="cycle server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.close()
        thread.join()


def _remove_stale(path: Path) -> None:
    if len(os.fsencode(path)) > _PATH_BYTES:
        raise DeviceError(f"{path} is too long for a socket's path ({_PATH_BYTES} bytes); choose a shorter folder")
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise DeviceError(f"another cycle server answers on {path}")


def _read_request(stream: _Readable) -> list[bytes] | None:
    """The blocks of a request; None at the end of the connection, or where a request is no request."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    (count,) = struct.unpack("<I", header)
    blocks = []
    for _ in range(count if count <= _MOST_BLOCKS else 0):
        size_field = stream.read(4)
        size = struct.unpack("<I", size_field)[0] if len(size_field) == 4 else _MOST_BYTES + 1
        block = stream.read(size) if size <= _MOST_BYTES else b""
        if size > _MOST_BYTES or len(block) < size:
            return None
        blocks.append(block)
    return blocks if count <= _MOST_BLOCKS else None


def _answer(cycles: BlockCycles, blocks: list[bytes]) -> bytes:
    try:
        values = cycles.of(blocks)
    except Exception as error:  # the device must get an answer: it waits for it
        say(f"warning: cycles of {len(blocks)} blocks could not be computed: {error}")
        values = [math.nan] * len(blocks)
    return struct.pack(f"<{len(values)}d", *values)


def main() -> int:
    """Serves one core until standard input ends or the process is terminated; prints ``ready`` when it listens."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--core", required=True, help="name or YAML file of the core")
    parser.add_argument("--folder", required=True, type=Path, help="folder of the cache of cycles")
    parser.add_argument("--socket", required=True, type=Path, help="path of the Unix socket")
    arguments = parser.parse_args()
    try:
        with serving(load_core(arguments.core), arguments.folder, arguments.socket):
            print("ready", flush=True)
            with suppress(KeyboardInterrupt):
                sys.stdin.read()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TvmfbnetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
