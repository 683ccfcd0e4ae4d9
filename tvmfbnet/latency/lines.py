"""Reading and appending files of JSON lines: bad lines are skipped with few warnings, appends are all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from tvmfbnet.progress import say

# Exceptions of reading one line of JSON: bad encoding, form or values, values too large, nesting too deep.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

_NAMED = 5
_CHUNK = 1 << 16


class BadLines:
    """Warns of the skipped lines of one file: the first few one by one, the others by their count.

    Args:
        path: the file.
        what: what each line should be, in a few words.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what, self.count = path, what, 0

    def skip(self, number: int, reason: str) -> None:
        """Counts a skipped line (numbered from 1) and says why it is skipped."""
        self.count += 1
        if self.count <= _NAMED:
            say(f"warning: {self._path} line {number} is no {self._what} and is skipped ({reason})")

    def conclude(self) -> None:
        """Says how many more lines were skipped."""
        if self.count > _NAMED:
            say(f"warning: {self._path} has {self.count - _NAMED} more lines that are skipped")


def append_whole(path: Path, data: bytes, sync: bool = True) -> None:
    """Appends ``data`` all or nothing: on failure removes what was written, then raises ``OSError``.

    Args:
        path: the file; created if missing.
        data: complete lines.
        sync: whether to flush to disk before returning.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        write_whole(descriptor, data, sync)
    finally:
        os.close(descriptor)


def write_whole(descriptor: int, data: bytes, sync: bool = True) -> None:
    """As :func:`append_whole`, to a file that is open for appending."""
    start = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, data)
        while written < len(data):  # a full disk takes a part first and fails only on the next write
            written += os.write(descriptor, data[written:])
        if sync:
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, start)
        raise


def mend_file(path: Path) -> None:
    """As :func:`mend_last_line`, of a file of JSON lines; without a file there is nothing to do."""
    if not path.is_file():
        return
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        mend_last_line(descriptor, path, json.loads)
    finally:
        os.close(descriptor)


def mend_last_line(descriptor: int, path: Path, parse: Callable[[bytes], object]) -> None:
    """Cuts off a torn last line with a warning; completes one that lacks only its newline. Reads no other line.

    For writers that hold the file's lock, before they append.

    Args:
        descriptor: the file, open for reading and appending.
        path: of the file, for the warning.
        parse: raises one of :data:`UNREADABLE` for a torn line.
    """
    size = os.fstat(descriptor).st_size
    good = _end_of_last_line(descriptor, size)
    if good == size:
        return
    torn = os.pread(descriptor, size - good, good)
    try:
        parse(torn)
    except UNREADABLE:
        os.ftruncate(descriptor, good)
        os.fsync(descriptor)
        say(f"warning: {path} ended in a torn line ({len(torn)} bytes, a write was cut short); it is cut off")
    else:
        write_whole(descriptor, b"\n")


def _end_of_last_line(descriptor: int, size: int) -> int:
    """Offset just after the last newline; 0 without one."""
    end = size
    while end > 0:
        start = max(0, end - _CHUNK)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
