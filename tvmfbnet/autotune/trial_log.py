"""The log of every trial, failures and their reasons included. A resumed run counts its budget and learns from it.

One JSON object per line in ``trials.jsonl`` beside the tuning database, flushed to disk after every trial. The log owns
what trials took; how their lines are read is in :mod:`tvmfbnet.latency.trial_times`, which needs no TVM.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.machines import AnyKnobs, knobs_of
from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.files import storage_errors
from tvmfbnet.latency.lines import append_whole, mend_file
from tvmfbnet.latency.trial_times import read_trials, trial_ms
from tvmfbnet.rpc.session import KernelTiming

# The kind of a trial with an impossible reported time.
_NO_TIME = "time"
# Trials further apart than this belong to different runs (seconds).
_PAUSE = 60.0
# The rate uses at most this many of the most recent trials, and at least this many gaps between them.
_RECENT, _MIN_GAPS = 300, 24


@dataclass(frozen=True)
class Templated:
    """A trial of a template: the kernel's shape, the knobs, and the time in milliseconds (None where it failed)."""

    shape: KernelShape
    knobs: AnyKnobs
    best_ms: float | None


class TrialLog:
    """The trials so far. Torn or damaged lines are skipped with a warning; reading writes nothing.

    A trial with an impossible time (zero, not finite) counts as failed.

    Args:
        path: the file; None for an empty, read-only log.

    Attributes:
        spent: trials per task, by the kernel's key.
        best_ms: fastest valid trial of each task.
        failures: failed trials by kind.
        templated: template trials by task.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.spent: Counter[str] = Counter()
        self.best_ms: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self.templated: dict[str, list[Templated]] = defaultdict(list)
        self._times: list[float] = []
        self._mended = False
        if path is not None:
            read_trials(path, self._count)

    def _count(self, record: dict[str, Any]) -> None:
        task, kind, best = str(record["task"]), str(record["kind"]), trial_ms(record)
        knobs = knobs_of(_plain(record["knobs"])) if record.get("knobs") else None
        shape = KernelShape(**_plain(record["shape"])) if record.get("shape") else None
        seconds = datetime.fromisoformat(record["time"]).timestamp() if "time" in record else None
        if best is None and record.get("best_ms") is not None:
            kind = kind or _NO_TIME
        self.spent[task] += 1
        if kind:
            self.failures[kind] += 1
        elif best is not None:
            self.best_ms[task] = min(best, self.best_ms.get(task, float("inf")))
        if knobs is not None and shape is not None:
            self.templated[task].append(Templated(shape, knobs, best))
        if seconds is not None:
            self._times.append(seconds)

    def trials_of(self, kernels: Iterable[Kernel]) -> int:
        """Total trials of some kernels."""
        return sum(self.spent[kernel.key] for kernel in kernels)

    def count_only_templates(self, tasks: Iterable[str]) -> None:
        """Counts of these tasks only the trials of today's templates, so that others do not use up the budget.

        Args:
            tasks: keys of kernels that earlier versions searched without templates, or with other ones.
        """
        for task in tasks:
            self.spent[task] = len(self.templated[task])

    def seeds(self, task: str, shape: KernelShape, most: int) -> list[AnyKnobs]:
        """The best knobs of other tasks that differ from ``task`` only in their epilogue, fastest first.

        Args:
            task: key of the kernel to tune.
            shape: of that kernel.
            most: maximum number.
        """
        # Relative to the task's best, because the epilogues take different times.
        tried = [
            (trial.best_ms / self.best_ms[other], trial.knobs)
            for other, trials in self.templated.items()
            if other != task and trials and trials[0].shape.anchor == shape.anchor
            for trial in trials
            if trial.best_ms is not None
        ]
        distinct = {knobs.key: knobs for _, knobs in sorted(tried, key=lambda pair: pair[0])}
        return list(distinct.values())[:most]

    def trials_per_second(self) -> float | None:
        """The rate of the most recent trials, pauses excluded; None while there are too few."""
        times = self._times[-_RECENT:]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        counted = [gap for gap in gaps if 0 <= gap < _PAUSE]
        return len(counted) / sum(counted) if sum(counted) > 0 and len(counted) >= _MIN_GAPS else None

    def append(
        self,
        kernel: Kernel,
        shape: KernelShape | None,
        knobs: Sequence[AnyKnobs | None],
        timings: Sequence[KernelTiming],
    ) -> None:
        """Appends one line per candidate. The target's lock must be held."""
        if self.path is None:
            raise ValueError("a log without a file is read-only")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = []
        for chosen, timing in zip(knobs, timings, strict=True):
            record = {
                "task": kernel.key,
                "name": kernel.name,
                "best_ms": timing.best_ms,
                "kind": timing.kind,
                "error": timing.error,
                "shape": asdict(shape) if shape is not None else None,
                "knobs": chosen.to_dict() if chosen is not None else None,
                "time": now,
            }
            lines.append(json.dumps(record))
            self._count(record)
        with storage_errors(self.path, "append to"):
            if not self._mended:  # a line torn by an earlier crash must not corrupt ours
                mend_file(self.path)
                self._mended = True
            append_whole(self.path, "".join(f"{line}\n" for line in lines).encode())


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """The fields of knobs or a shape, checked to be small integers, strings and booleans."""
    for name, field in value.items():
        if not isinstance(field, str | int) or (isinstance(field, int) and not 0 <= field < 1 << 31):
            raise ValueError(f"{name} is {str(field)[:40]}")
    return value
