"""Measurement passes on disk, so that a killed run loses at most the pass in flight.

A measurement pools several passes, taken in turn with those of other measurements. Each pass is a line of
``visits.jsonl`` beside the journal as soon as it is done. A restarted run reads the lines and makes only the passes
that are missing; the complete measurement goes to the journal, and its passes are dropped. A file of their own keeps
incomplete measurements out of latency tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from tvmfbnet.files import make_folder, storage_errors, write_text
from tvmfbnet.latency.lines import UNREADABLE, append_whole, mend_file
from tvmfbnet.progress import say

_LOCK_SECONDS = 60.0

PassRecord = dict[str, Any]


class PassLog:
    """The passes of one target's incomplete measurements.

    Args:
        journal: path of the target's journal; the log lies beside it.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_name("visits.jsonl")
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"), timeout=_LOCK_SECONDS)

    def runs(self) -> dict[str, list[PassRecord]]:
        """Records by run, in the order they were appended; a malformed line is skipped with a warning."""
        records: dict[str, list[PassRecord]] = {}
        if not self.path.exists():
            return records
        with storage_errors(self.path, "read"):
            lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                record = json.loads(line)
                records.setdefault(str(record.pop("run")), []).append(record)
            except UNREADABLE:
                if number < len(lines):  # the last line may have been torn by a kill
                    say(f"warning: {self.path} line {number} is not a measurement pass and is skipped")
        return records

    def append(self, run: str, record: PassRecord) -> None:
        """Adds one record of a run; it is on disk when this returns."""
        line = json.dumps({"run": run, **record}, allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        with self._lock, storage_errors(self.path, "append to"):
            mend_file(self.path)
            append_whole(self.path, line)

    def drop(self, run: str, which: Callable[[PassRecord], bool] = lambda record: True) -> None:
        """Removes a run's records that are in the journal now, or are of no more use."""
        with self._lock:
            runs = self.runs()
            if run not in runs:
                return
            runs[run] = [record for record in runs[run] if not which(record)]
            lines = [json.dumps({"run": name, **record}) for name, records in runs.items() for record in records]
            if lines:
                write_text(self.path, "".join(f"{line}\n" for line in lines))
            else:
                self.path.unlink(missing_ok=True)
