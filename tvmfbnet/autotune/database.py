"""TVM's tuning database for one target and context: tuned schedules in append-only files that tolerate damage.

Two files are TVM's own: one workload (kernel) per line, and one record (schedule) per line, which refers to its
workload by line number. Line numbers break once a line is missing, and TVM checks neither the target nor the TVM
version of a record. So ``database_keys.jsonl`` beside them maps records to workloads by digests of their lines, and
``context.json`` says which context they belong to (:mod:`tvmfbnet.autotune.database_folders`). Damaged lines are
skipped, and only their kernels are lost. Readers write nothing; a writer truncates a torn last line, holding the
target's lock.

The database owns the schedules. TVM's form has a copy of each schedule's time, which only orders the schedules of one
kernel: what trials took is in the log of trials (:mod:`tvmfbnet.autotune.trial_log`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import statistics
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.candidate import ScheduleCandidate, argument_infos
from tvmfbnet.autotune.database_folders import database_folder as database_folder
from tvmfbnet.autotune.database_folders import folder_to_read, folder_to_write, is_keyed
from tvmfbnet.compiler.dot_products import PREFIX
from tvmfbnet.compiler.lowering import Kernel, kernel_key
from tvmfbnet.compiler.tap_products import register_integer_intrinsics
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.lines import UNREADABLE, BadLines, append_whole, mend_file
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.progress import say
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.scratch import new_folder
from tvmfbnet.targets.definition import ResolvedTarget

_WORKLOADS, _RECORDS, _KEYS = "database_workload.json", "database_tuning_record.json", "database_keys.jsonl"
# More lines than one write can lose.
_MOST_LOST = 1000


def open_database(context: Context, root: Path | None = None) -> TuningDatabase:
    """The tuning database of a context, opened for writing and created if missing. The target's lock must be held.

    Args:
        context: with what the device reported.
        root: folder of all targets' logs.
    """
    return TuningDatabase(folder_to_write(target_folder(context.target, root), context), repair=True)


def existing_database(
    target: ResolvedTarget, root: Path | None = None, device_model: str | None = None
) -> TuningDatabase | None:
    """A target's tuned schedules, read-only; None where nothing was tuned for it.

    Args:
        target: the target.
        root: folder of all targets' logs.
        device_model: use this device model's schedules; by default those of the model measured last.

    Raises:
        StorageError: there are only schedules of other contexts.
        LatencyError: there are none of ``device_model``.
    """
    return database_of(context_of(target), root, device_model)


def database_of(context: Context, root: Path | None = None, device_model: str | None = None) -> TuningDatabase | None:
    """As :func:`existing_database`, for a context, which names the device if one was asked."""
    folder = folder_to_read(target_folder(context.target, root), context, device_model)
    return TuningDatabase(folder) if folder is not None and TuningDatabase.exists(folder) else None


def joined_records(*databases: TuningDatabase | None) -> Any | None:
    """The schedules of several databases as TVM's compiler queries them; None where there is no database."""
    records = [database.records for database in databases if database is not None]
    return ms.database.UnionDatabase(*records) if len(records) > 1 else next(iter(records), None)


class TuningDatabase:
    """The tuned schedules of one target in one context, in one folder.

    Args:
        folder: of the files.
        repair: open for writing: create it if missing, and truncate torn last lines. The target's lock must be held.

    Attributes:
        folder: of the files.
        records: the schedules as TVM's compiler queries them; a reader loads only the fastest of each kernel.
    """

    def __init__(self, folder: Path, repair: bool = False) -> None:
        self.folder = make_folder(folder) if repair else folder
        self.records: Any = ms.database.MemoryDatabase()
        self._scheduled: set[str] = set()  # keys of the kernels that have a schedule
        self._lines: dict[str, tuple[int, str]] = {}  # line number (from 0) and digest of each workload
        self._scratch: _Scratch | None = None
        with storage_errors(folder, "open the tuning database in"):
            if repair:
                _mend(folder)
            self._take(_Files(folder), repair)
            self._count = _count_lines(folder / _WORKLOADS) if repair else 0

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether this folder has a tuning database."""
        return (folder / _RECORDS).is_file() and (folder / _WORKLOADS).is_file()

    def holds(self, kernel: Kernel) -> bool:
        """Whether a kernel has a schedule."""
        return kernel.key in self._scheduled

    def add(self, candidate: ScheduleCandidate, kernel: Kernel, target: tvm.target.Target, latency_ms: float) -> None:
        """Appends one timed candidate."""
        if candidate.schedule is None:
            raise ValueError("a candidate without a schedule cannot be recorded")
        infos = argument_infos(candidate.schedule)
        workload = self.records.commit_workload(kernel.mod)
        record: Any = ms.database.TuningRecord(candidate.schedule.trace, workload, [latency_ms / 1e3], target, infos)
        self._scratch = self._scratch or _Scratch()
        workload_line, record_text = self._scratch.lines(kernel.mod, record)
        with storage_errors(self.folder, "append to the tuning database in"):
            if kernel.key not in self._lines:
                append_whole(self.folder / _WORKLOADS, workload_line, sync=False)
                self._lines[kernel.key] = self._count, _digest(workload_line)
                self._count += 1
            number, digest = self._lines[kernel.key]
            line = f"[{number}, {record_text}".encode()
            append_whole(self.folder / _KEYS, _key_line(line, digest), sync=False)
            append_whole(self.folder / _RECORDS, line, sync=False)
        self.records.commit_tuning_record(record)
        self._scheduled.add(kernel.key)

    def flush(self) -> None:
        """Syncs what was added to disk."""
        for name in (_WORKLOADS, _KEYS, _RECORDS):
            path = self.folder / name
            if path.exists():
                with storage_errors(path, "flush"), path.open("rb") as stream:
                    os.fsync(stream.fileno())

    def _take(self, files: _Files, writing: bool) -> None:
        """Fills :attr:`records` from the files; a writer loads all of them, and adds keys that older versions lack."""
        for stored in files.workloads.values():
            self._lines[stored.key] = stored.number, stored.digest
        by_workload: dict[str, list[_Record]] = defaultdict(list)
        for record in files.records:
            by_workload[record.workload.key].append(record)
        missing: list[bytes] = []
        for key, records in by_workload.items():
            for record in sorted(records, key=lambda record: record.seconds):
                parsed = record.parse(trusted=files.keyed)
                if parsed is None:
                    files.bad_records.skip(record.number + 1, "TVM rejects it")
                    continue
                self.records.commit_workload(record.workload.parsed.mod)
                self.records.commit_tuning_record(parsed)
                self._scheduled.add(key)
                if not files.keyed:
                    missing.append(_key_line(record.line, record.workload.digest))
                if not writing:
                    break
        files.conclude()
        if writing and (missing or not files.keyed):
            append_whole(self.folder / _KEYS, b"".join(missing))


@dataclass(frozen=True)
class _Workload:
    """A kernel in the files: its line number (from 0) and digest, its key, and TVM's parsed workload."""

    number: int
    digest: str
    key: str
    parsed: Any


@dataclass(frozen=True)
class _Record:
    """A schedule in the files: its line and line number (from 0), its mean time, and its workload."""

    number: int
    line: bytes
    seconds: float
    value: Any
    workload: _Workload

    def parse(self, trusted: bool) -> Any:
        """TVM's record; None where TVM rejects it. An untrusted record must also apply to its kernel."""
        if PREFIX.encode() in self.line:
            register_integer_intrinsics()
        try:
            record = ms.database.TuningRecord.from_json(self.value, self.workload.parsed)
            if not trusted:
                record.trace.apply_to_schedule(Schedule(self.workload.parsed.mod), remove_postproc=False)
        except Exception:  # TVM raises several kinds
            return None
        return record


class _Files:
    """The undamaged workloads and records of a folder.

    Files without keys are from an older version: there, line numbers are trusted up to the first broken workload.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad_workloads = BadLines(folder / _WORKLOADS, "workload")
        self.bad_records = BadLines(folder / _RECORDS, "record of a schedule")
        self.keyed = (folder / _KEYS).exists() or is_keyed(folder)
        self._lost = 0
        self.workloads: dict[str, _Workload] = {}
        self.records: list[_Record] = []
        if (folder / _WORKLOADS).exists() or (folder / _RECORDS).exists():
            keys = self._read_keys()
            self._read_workloads(set(keys.values()))
            self._read_records(keys)

    def conclude(self) -> None:
        """Reports the lines that were skipped."""
        self.bad_workloads.conclude()
        self.bad_records.conclude()
        if self._lost:
            say(
                f"warning: ignoring {self._lost} schedule(s) in {self.folder}: their kernels are damaged there; "
                "the next tuning finds others"
            )

    def _read_keys(self) -> dict[str, str]:
        """Maps the digest of a record's line to that of its workload's line."""
        workload_of: dict[str, str] = {}
        bad = BadLines(self.folder / _KEYS, "key of a schedule")
        for number, line in _numbered(self.folder / _KEYS):
            try:
                value = json.loads(line)
                workload_of[str(value["record"])] = str(value["workload"])
            except UNREADABLE as error:
                bad.skip(number + 1, type(error).__name__)
        bad.conclude()
        return workload_of

    def _read_workloads(self, wanted: set[str]) -> None:
        for number, line in _numbered(self.folder / _WORKLOADS):
            digest = _digest(line)
            if self.keyed and digest not in wanted:
                if not _is_workload(line):
                    self.bad_workloads.skip(number + 1, "it is damaged")
                continue  # no schedule refers to it, or its line changed
            try:
                parsed = ms.database.Workload.from_json(json.loads(line))
                name = digest if self.keyed else str(number)
                self.workloads[name] = _Workload(number, digest, kernel_key(parsed.mod), parsed)
            except Exception:  # TVM raises several kinds
                self.bad_workloads.skip(number + 1, "TVM rejects it")
                if not self.keyed:
                    return  # unknown which lines are missing

    def _read_records(self, keys: dict[str, str]) -> None:
        for number, line in _numbered(self.folder / _RECORDS):
            try:
                index, value = json.loads(line)
                seconds = statistics.fmean(value[1])
                if not isinstance(index, int) or not math.isfinite(seconds) or seconds <= 0:
                    raise ValueError("it has no valid time")
                name = keys[_digest(line)] if self.keyed else str(index)
            except UNREADABLE as error:
                self.bad_records.skip(number + 1, "it is damaged" if isinstance(error, KeyError) else str(error)[:100])
                continue
            workload = self.workloads.get(name)
            if workload is None:
                self._lost += 1
            else:
                self.records.append(_Record(number, line, seconds, value, workload))


class _Scratch:
    """Has TVM serialise workloads and records: only its JSON database writes them as lines."""

    def __init__(self) -> None:
        folder = new_folder()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._workloads, self._records = folder / _WORKLOADS, folder / _RECORDS
        self._database = ms.database.JSONDatabase(str(self._workloads), str(self._records), allow_missing=True)

    def lines(self, mod: Any, record: Any) -> tuple[bytes, str]:
        """A kernel's line, and a record's line after its workload number."""
        self._workloads.write_bytes(b"")
        self._records.write_bytes(b"")
        self._database.commit_workload(mod)
        self._database.commit_tuning_record(record)
        return self._workloads.read_bytes(), self._records.read_text(encoding="utf-8").partition(",")[2].lstrip()


def _mend(folder: Path) -> None:
    """Truncates torn last lines; a workload lost this way keeps an empty line if records refer to it."""
    for name in (_WORKLOADS, _KEYS, _RECORDS):
        mend_file(folder / name)
    count, last = _count_lines(folder / _WORKLOADS), -1
    for _, line in _numbered(folder / _RECORDS):
        number = line[1:].partition(b",")[0].strip()
        last = max(last, int(number)) if number.isdigit() and len(number) < 8 else last
    if 0 <= last - count < _MOST_LOST:
        append_whole(folder / _WORKLOADS, b"null\n" * (last + 1 - count))


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """Complete lines of a file with their numbers, from 0; none where there is no file."""
    if path.exists():
        lines = path.read_bytes().split(b"\n")
        yield from ((number, line + b"\n") for number, line in enumerate(lines[:-1]) if line.strip())


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]


def _key_line(record: bytes, workload_digest: str) -> bytes:
    return json.dumps({"record": _digest(record), "workload": workload_digest}).encode() + b"\n"


def _is_workload(line: bytes) -> bool:
    """Whether a line looks like a workload."""
    try:
        key, text = json.loads(line)
    except UNREADABLE:
        return False
    return isinstance(key, str) and isinstance(text, str)
