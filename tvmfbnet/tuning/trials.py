"""The log of every trial, failures with their reason included: what a resumed run counts its budget by and learns from.

One JSON object a line in ``trials.jsonl`` beside the tuning database, flushed to disk after every round.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tvmfbnet.compiler.lowering import Kernel
from tvmfbnet.devices.session import KernelTiming
from tvmfbnet.files import storage_errors
from tvmfbnet.tuning.knobs import KernelShape, Knobs

# Trials further apart than this belong to different runs (seconds).
_PAUSE = 60.0


@dataclass(frozen=True)
class Templated:
    """A trial of a template: what was scheduled how, and its time in milliseconds (None where it failed)."""

    shape: KernelShape
    knobs: Knobs
    best_ms: float | None


class TrialLog:
    """What was tried so far; a line torn by a power cut is ignored.

    Attributes:
        spent: trials of each task, by the kernel's key.
        best_ms: fastest valid trial of each task.
        failures: failed trials by kind.
        templated: the trials of templates, by task.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent: Counter[str] = Counter()
        self.best_ms: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self.templated: dict[str, list[Templated]] = defaultdict(list)
        self._times: list[float] = []
        if path.exists():
            with storage_errors(path, "read"):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines:
                self._count_line(line)

    def _count_line(self, line: str) -> None:
        try:
            self._count(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def _count(self, record: dict[str, Any]) -> None:
        task, kind, best = str(record["task"]), str(record["kind"]), record.get("best_ms")
        knobs = Knobs(**record["knobs"]) if record.get("knobs") else None
        shape = KernelShape(**record["shape"]) if record.get("shape") else None
        self.spent[task] += 1
        if kind:
            self.failures[kind] += 1
        elif best is not None:
            self.best_ms[task] = min(float(best), self.best_ms.get(task, float("inf")))
        if knobs is not None and shape is not None:
            self.templated[task].append(Templated(shape, knobs, best))
        if "time" in record:
            self._times.append(datetime.fromisoformat(record["time"]).timestamp())

    def trials_of(self, kernels: Iterable[Kernel]) -> int:
        """Trials that some kernels have had, together."""
        return sum(self.spent[kernel.key] for kernel in kernels)

    def kernels_ms(self, kernels: Sequence[Kernel]) -> float | None:
        """What a part's kernels take by themselves, milliseconds; None without kernels, or where one has no trial."""
        if not kernels or any(kernel.key not in self.best_ms for kernel in kernels):
            return None
        return sum(kernel.count * self.best_ms[kernel.key] for kernel in kernels)

    def seeds(self, task: str, shape: KernelShape, most: int) -> list[Knobs]:
        """The best knobs of other tasks that differ from ``task`` only in what is done after the sum, fastest first.

        Args:
            task: key of the kernel that is to be tuned.
            shape: of that kernel.
            most: how many at most.
        """
        # Relative to its task's best: the epilogues themselves take different times.
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
        """The rate of the runs so far, pauses between them left out; None before there is anything to go by."""
        gaps = [later - sooner for sooner, later in zip(self._times, self._times[1:], strict=False)]
        spent = sum(gap for gap in gaps if 0 <= gap < _PAUSE)
        return len(gaps) / spent if spent > 0 and len(gaps) >= 50 else None

    def append(
        self,
        kernel: Kernel,
        shape: KernelShape | None,
        knobs: Sequence[Knobs | None],
        timings: Sequence[KernelTiming],
    ) -> None:
        """Writes one round: a line for each candidate."""
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
