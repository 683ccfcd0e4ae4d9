"""TVM's tuning database of one target: the schedules found, in two append-only files that survive a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tvm
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.latency.store import target_folder
from tvmfbnet.progress import say
from tvmfbnet.tuning.candidate import Candidate, argument_infos

_WORKLOADS, _RECORDS = "database_workload.json", "database_tuning_record.json"


def database_folder(folder: Path) -> Path:
    """Where the tuning database of a target's folder lives: ``tuning_logs/TARGET/database``."""
    return folder / "database"


def open_database(target: str, root: Path | None = None) -> TuningDatabase:
    """The tuning database of a target, begun where there is none, repaired where a crash left it torn.

    Args:
        target: its name.
        root: folder of all targets' logs.
    """
    return TuningDatabase(database_folder(target_folder(target, root)), repair=True)


def existing_database(target: str, root: Path | None = None) -> TuningDatabase | None:
    """As :func:`open_database`, but None where nothing was tuned for the target."""
    folder = database_folder(target_folder(target, root))
    return TuningDatabase(folder, repair=True) if TuningDatabase.exists(folder) else None


class TuningDatabase:
    """The schedules found for one target and TVM version: two append-only files in one folder.

    A line torn by a power cut is dropped with a warning when the database is opened for writing.
    """

    def __init__(self, folder: Path, repair: bool = False) -> None:
        self.folder = make_folder(folder) if repair else folder
        if repair:
            _repair(folder)
        with storage_errors(folder, "open the tuning database in"):
            self.records = ms.database.JSONDatabase(
                str(folder / _WORKLOADS), str(folder / _RECORDS), allow_missing=repair
            )

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a tuning database was begun in this folder."""
        return (folder / _RECORDS).is_file() and (folder / _WORKLOADS).is_file()

    def add(self, candidate: Candidate, kernel: Kernel, target: tvm.target.Target, latency_ms: float) -> None:
        """Appends one timed candidate."""
        if candidate.schedule is None:
            raise ValueError("a candidate without a schedule cannot be recorded")
        workload = self.records.commit_workload(kernel.mod)
        infos = argument_infos(candidate.schedule)
        record: Any = ms.database.TuningRecord(candidate.schedule.trace, workload, [latency_ms / 1e3], target, infos)
        with storage_errors(self.folder / _RECORDS, "append to"):
            self.records.commit_tuning_record(record)

    def flush(self) -> None:
        """Makes sure that what was added is on the disk."""
        for name in (_WORKLOADS, _RECORDS):
            path = self.folder / name
            if path.exists():
                with storage_errors(path, "flush"), path.open("rb") as stream:
                    os.fsync(stream.fileno())


def _repair(folder: Path) -> None:
    """Drops a last line that does not parse from each file, and records whose workload is gone."""
    workloads = _whole_lines(folder / _WORKLOADS)
    _whole_lines(folder / _RECORDS, workloads=workloads)


def _whole_lines(path: Path, workloads: int | None = None) -> int:
    """Rewrites ``path`` without broken lines, if it has any; returns how many lines are left."""
    if not path.exists():
        return 0
    with storage_errors(path, "read"):
        lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_whole(line, workloads)]
    if len(kept) < len(lines):
        say(f"warning: {path} had {len(lines) - len(kept)} broken line(s), dropped")
        with storage_errors(path, "repair"):
            path.write_bytes(b"".join(kept))
    return len(kept)


def _is_whole(line: bytes, workloads: int | None) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return workloads is None or (isinstance(value, list) and isinstance(value[0], int) and value[0] < workloads)
