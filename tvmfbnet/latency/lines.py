"""Reading and appending files of JSON lines: bad lines are skipped with few warnings, appends are all or nothing."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from tvmfbnet.progress import say

# Exceptions of reading one line of JSON: bad encoding, form or values, values too large, nesting too deep.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

_NAMED = 5


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


def mend_last_line(path: Path) -> None:
    """Cuts off a torn last line with a warning; completes one that lacks only its newline.

    For writers that hold the file's lock, before they append.
    """
    if not path.is_file():
        return
    with path.open("r+b") as stream:
        data = stream.read()
        good = data.rfind(b"\n") + 1
        torn = data[good:]
        if not torn:
            return
        try:
            json.loads(torn)
        except UNREADABLE:
            stream.truncate(good)
            say(f"warning: {path} ended in a torn line ({len(torn)} bytes, a write was cut short); it is cut off")
        else:
            stream.write(b"\n")
        stream.flush()
        os.fsync(stream.fileno())
