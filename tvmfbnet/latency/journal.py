"""The append-only journal of measurements: one JSON object per line, on disk before the next measurement starts.

Several processes may append at once; a lock file beside the journal serialises them. A line is written completely or
not at all, so a full disk or a kill leaves the earlier lines readable. A power cut can leave a torn last line: the next
writer cuts it off with a warning, readers skip it and write nothing. The order of the lines says which measurement is
the most recent, as clocks may have gone backwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tvmfbnet.errors import StorageError
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.latency.lines import UNREADABLE, BadLines, mend_last_line, write_whole
from tvmfbnet.latency.measurement import SCHEMA_VERSION, Measurement, migrate

_LOCK_SECONDS = 60.0
# No version of this program will ever write a larger schema version: such a line is corrupt.
_LAST_VERSION = 1000


class _Record(Protocol):
    """What a journal holds."""

    def to_line(self) -> bytes:
        """As one line."""
        ...


RecordT = TypeVar("RecordT", bound=_Record)


class JournalOf(Generic[RecordT]):
    """Measurements of one kind, of one target, in one file.

    Args:
        path: the ``.jsonl`` file; it and its folder are created with the first measurement.
        record: their model.
        called: what a line is, for warnings of those that are not.
        newest: the largest schema version that is read.
        upgrade: makes a record of an older version one of today's.
    """

    def __init__(
        self,
        path: Path,
        record: type[RecordT],
        called: str,
        newest: int,
        upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = path
        self._record, self._called, self._newest, self._upgrade = record, called, newest, upgrade
        self._lock_path = path.with_name(path.name + ".lock")

    def append(self, measurement: RecordT) -> None:
        """Adds one measurement; it is on disk when this returns.

        Raises:
            StorageError: the folder cannot be written or the disk is full; the journal is unchanged.
        """
        line = measurement.to_line()
        make_folder(self.path.parent)
        with self._locked(), storage_errors(self.path, "append to"):
            is_new = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                mend_last_line(descriptor, self.path, lambda line: self._parse(0, line))
                write_whole(descriptor, line)
            finally:
                os.close(descriptor)
            if is_new:
                _sync_folder(self.path.parent)

    def read(self) -> list[RecordT]:
        """All measurements in the order they were made; empty if there is no journal yet.

        A line that is torn, corrupt or holds impossible values is skipped with a warning. Nothing is written: the
        folder may be read-only.

        Raises:
            StorageError: it cannot be read, or a newer version of this program wrote it.
        """
        if not self.path.exists():
            return []
        with storage_errors(self.path, "read"):
            data = self.path.read_bytes()
        measurements: list[RecordT] = []
        bad = BadLines(self.path, self._called)
        for number, line in enumerate(data.split(b"\n"), start=1):
            if not line:
                continue
            try:
                measurements.append(self._parse(number, line))
            except UNREADABLE as error:
                bad.skip(number, _reason(error))
        bad.conclude()
        return measurements

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self._lock_path, timeout=_LOCK_SECONDS)
        try:
            with storage_errors(self._lock_path, "lock"):
                lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{self.path} has been locked by another process for {_LOCK_SECONDS:.0f} s; stop that process and retry"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _parse(self, number: int, line: bytes) -> RecordT:
        """Parses one line; one of :data:`UNREADABLE` if it is corrupt, StorageError if a newer version wrote it."""
        value = json.loads(line)
        version = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(version, int) and self._newest < version < _LAST_VERSION:
            raise StorageError(
                f"{self.path} line {number} was written by a newer tvmfbnet (schema version {version}, this one "
                f"reads up to {self._newest}); update tvmfbnet"
            )
        model: Any = self._record
        parsed: RecordT = model.model_validate(self._upgrade(value) if isinstance(value, dict) else value)
        return parsed


class Journal(JournalOf[Measurement]):
    """The timings of one target in one file.

    Args:
        path: the ``.jsonl`` file; it and its folder are created with the first measurement.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Measurement, "valid measurement", SCHEMA_VERSION, migrate)


def _sync_folder(folder: Path) -> None:
    """Flushes a folder, so that a file created in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(step) for step in first['loc'])}: {first['msg']}"
    return str(error)[:200]
