"""Visits on the disk: what was timed of a measurement that is not whole yet, so that a killed run loses one at most.

A measurement pools several visits, with those of others in between. Each visit is a line of ``visits.jsonl`` beside the
journal as soon as it is made. A run that starts again reads those that are there and makes the missing ones; when all
are there, the measurement goes to the journal and its visits go. A file of its own keeps unfinished ones out of tables.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from tvmfbnet.files import make_folder, storage_errors, write_text
from tvmfbnet.progress import say

_LOCK_SECONDS = 60.0

Visit = dict[str, Any]


def run_key(what: Mapping[str, Any]) -> str:
    """A short name for all that visits must share to be pooled: plain data, or what has a text of its own."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


class VisitLog:
    """The visits of one target's unfinished measurements.

    Args:
        journal: path of the target's journal, which they lie beside.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name("visits.jsonl")
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=_LOCK_SECONDS)

    def runs(self) -> dict[str, list[Visit]]:
        """What was appended, in its order, by run; a line that is no visit is skipped with a warning."""
        found: dict[str, list[Visit]] = {}
        if not self.path.exists():
            return found
        with storage_errors(self.path, "read"):
            lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                value = json.loads(line)
                found.setdefault(str(value.pop("run")), []).append(value)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                if number < len(lines):  # else a kill cut it short
                    say(f"warning: {self.path} line {number} is no visit and is skipped")
        return found

    def append(self, run: str, visit: Visit) -> None:
        """Adds one visit of a run; it is on disk when this returns."""
        line = json.dumps({"run": run, **visit}, allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        with self._lock, storage_errors(self.path, "append to"), self.path.open("ab+") as stream:
            size = stream.seek(0, os.SEEK_END)
            if size:
                stream.seek(size - 1)
                if stream.read(1) != b"\n":
                    line = b"\n" + line  # ends what a kill cut short
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def drop(self, run: str, which: Callable[[Visit], bool] = lambda visit: True) -> None:
        """Removes those visits of a run that went to the journal, or can be used no more."""
        with self._lock:
            runs = self.runs()
            if run not in runs:
                return
            runs[run] = [visit for visit in runs[run] if not which(visit)]
            lines = [json.dumps({"run": name, **visit}) for name, visits in runs.items() for visit in visits]
            if lines:
                write_text(self.path, "".join(f"{line}\n" for line in lines))
            else:
                self.path.unlink(missing_ok=True)
