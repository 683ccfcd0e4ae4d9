"""The log of every trial, failures with their reason included: what a resumed run counts its budget by.

One JSON object a line in ``trials.jsonl`` beside the tuning database, flushed to disk after every round.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.devices.remote import KernelTiming
from tvmfbnet.files import storage_errors


class TrialLog:
    """Counts trials a task and failures by kind; a line torn by a power cut is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        if path.exists():
            with storage_errors(path, "read"):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines:
                self._count_line(line)

    def _count_line(self, line: str) -> None:
        try:
            value = json.loads(line)
            self._count(str(value["task"]), str(value["kind"]))
        except (ValueError, KeyError, TypeError):
            return

    def _count(self, task: str, kind: str) -> None:
        self.spent[task] += 1
        if kind:
            self.failures[kind] += 1

    def append(self, kernel: Kernel, timings: Sequence[KernelTiming]) -> None:
        """Writes one round."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = []
        for timing in timings:
            best = min(timing.repeats_ms) if timing.repeats_ms else None
            record = {
                "task": kernel.key,
                "name": kernel.name,
                "best_ms": best,
                "kind": timing.kind,
                "error": timing.error,
            }
            lines.append(json.dumps({**record, "time": now}))
            self._count(kernel.key, timing.kind)
        with storage_errors(self.path, "append to"), self.path.open("ab") as stream:
            # A torn line of an earlier crash ends here, so that it spoils no line of ours.
            torn = stream.tell() > 0 and not _ends_whole(self.path)
            stream.write(("\n" if torn else "").encode() + "".join(f"{line}\n" for line in lines).encode())
            stream.flush()
            os.fsync(stream.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
