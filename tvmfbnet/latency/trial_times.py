"""What a target's tuning trials took, read from their log without TVM.

The log (``trials.jsonl``, written by :mod:`tvmfbnet.autotune.trial_log`) owns these times: nothing else stores them to
be read back. Who needs the time of a kernel, such as the search on a latency table, derives it from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvmfbnet.files import storage_errors
from tvmfbnet.latency.lines import UNREADABLE, BadLines


def read_trials(path: Path, take: Callable[[dict[str, Any]], None]) -> None:
    """Gives the record of each trial to ``take``, in order; writes nothing.

    A line that is torn or damaged, or that ``take`` rejects with one of
    :data:`~tvmfbnet.latency.lines.UNREADABLE`, is skipped with a warning. Without a file there are no trials.

    Raises:
        StorageError: the file cannot be read.
    """
    if not path.exists():
        return
    with storage_errors(path, "read"):
        lines = path.read_bytes().split(b"\n")
    bad = BadLines(path, "valid trial")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            take(json.loads(line))
        except UNREADABLE as error:
            bad.skip(number, "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200])
    bad.conclude()


def trial_ms(record: Mapping[str, Any]) -> float | None:
    """Milliseconds of a trial's fastest repeat; None where it failed, or reported an impossible time.

    Raises one of :data:`~tvmfbnet.latency.lines.UNREADABLE` for a record that is none of a trial.
    """
    failed, best = bool(str(record["kind"])), record.get("best_ms")
    if best is None:
        return None
    milliseconds = float(best)
    return milliseconds if not failed and math.isfinite(milliseconds) and milliseconds > 0 else None


def best_times(path: Path) -> dict[str, float]:
    """Milliseconds of the fastest valid trial of each kernel in a log, by the kernel's key; see :func:`read_trials`."""
    best: dict[str, float] = {}

    def take(record: dict[str, Any]) -> None:
        kernel, milliseconds = str(record["task"]), trial_ms(record)
        if milliseconds is not None:
            best[kernel] = min(milliseconds, best.get(kernel, math.inf))

    read_trials(path, take)
    return best
