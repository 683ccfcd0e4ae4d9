"""Resumable timing of parts inside probe networks: which nets a run times, and the passes done so far.

The nets are drawn once and stored with the first line of the run, because the set of parts that are due changes while
measurements are recorded. A restarted run takes the same nets and makes the passes that they still lack.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.files import digest
from tvmfbnet.latency.passes import PassLog
from tvmfbnet.profiling.device_timer import ChainTiming
from tvmfbnet.space.space import NetPart


@dataclass(frozen=True)
class NetsRun:
    """Probe networks that are timed to measure some of their parts.

    Attributes:
        key: names the run in the pass log.
        nets: the parts of each, in order of execution.
        due: the parts to measure.
        trials: tuning trials spent on the kernels of each part.
        shared: what all passes share: context, protocol, timing policy; plain data.
        overhead_ms: the device's cost of an empty call when the run started.
    """

    key: str
    nets: Sequence[Sequence[NetPart]]
    due: frozenset[NetPart]
    trials: Mapping[NetPart, int]
    shared: Mapping[str, Any]
    overhead_ms: float

    @classmethod
    def begun(
        cls,
        nets: Sequence[Sequence[NetPart]],
        due: frozenset[NetPart],
        trials: Mapping[NetPart, int],
        shared: Mapping[str, Any],
        overhead_ms: float,
    ) -> NetsRun:
        """A run without any pass yet."""
        run = cls("", nets, due, trials, shared, overhead_ms)
        return cls(digest(run.to_dict()), nets, due, trials, shared, overhead_ms)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the key."""
        numbers = {part: number for number, part in enumerate(self.trials)}
        return {
            "parts": [{**part.to_dict(), "trials": trials} for part, trials in self.trials.items()],
            "nets": [[numbers[part] for part in net] for net in self.nets],
            "due": sorted(numbers[part] for part in self.due if part in numbers),
            "shared": dict(self.shared),
            "overhead_ms": self.overhead_ms,
        }

    @classmethod
    def from_dict(cls, key: str, value: Mapping[str, Any]) -> NetsRun:
        """What :meth:`to_dict` gave; KeyError, IndexError, TypeError or ValueError on other data."""
        trials = {NetPart.from_dict(record): int(record["trials"]) for record in value["parts"]}
        parts = list(trials)
        nets = [tuple(parts[number] for number in net) for net in value["nets"]]
        due = frozenset(parts[number] for number in value["due"])
        return cls(key, nets, due, trials, value["shared"], float(value["overhead_ms"]))


def runs_begun(log: PassLog, shared: Mapping[str, Any], trials: Mapping[NetPart, int]) -> list[NetsRun]:
    """Runs that an earlier process left unfinished and this one can resume.

    Runs of parts whose kernels were tuned further since are dropped; runs of other spaces are kept for later.

    Args:
        log: the passes.
        shared: see :class:`NetsRun`.
        trials: tuning trials spent on the kernels of this process's parts.
    """
    resumable: list[NetsRun] = []
    for key, lines in log.runs().items():
        try:
            run = NetsRun.from_dict(key, lines[0])
        except (KeyError, IndexError, TypeError, ValueError):
            continue  # passes over whole nets
        if run.shared != shared or not run.due.issubset(trials):
            continue
        if all(trials.get(part, 0) == count for part, count in run.trials.items()):
            resumable.append(run)
        else:
            log.drop(key)
    for folder in log.path.parent.glob("carriers-*"):
        if folder.name.removeprefix("carriers-") not in log.runs():
            shutil.rmtree(folder, ignore_errors=True)
    return resumable


class PassesDone:
    """The passes of one run, by library of nets; starts the run in the log if it is new.

    Args:
        run: which run.
        log: where its passes are.

    Attributes:
        recorded: libraries whose measurements are in the journal.
    """

    def __init__(self, run: NetsRun, log: PassLog) -> None:
        self._run, self._log = run, log
        self._lines = [line for line in log.runs().get(run.key, []) if _is_usable(line)]
        if not self._lines:
            log.append(run.key, run.to_dict())
        self.recorded = {line["library"] for line in self._lines if line.get("recorded")}

    def passes(self, library: int) -> list[ChainTiming]:
        """The passes over one library."""
        return [ChainTiming.from_dict(line) for line in self._lines if self._is_pass(line, library)]

    def add(self, library: int, timing: ChainTiming, fingerprint: Mapping[str, Any]) -> None:
        """Records one pass; ``fingerprint`` is what the device reported about itself."""
        line = {"library": library, **timing.to_dict(), "fingerprint": dict(fingerprint)}
        self._log.append(self._run.key, line)
        self._lines.append(line)

    def fingerprint(self, library: int) -> Mapping[str, Any]:
        """What the device reported in a library's last pass."""
        last: Mapping[str, Any] = [line for line in self._lines if self._is_pass(line, library)][-1]
        fingerprint: Mapping[str, Any] = last["fingerprint"]
        return fingerprint

    def mark_recorded(self, library: int) -> None:
        """Notes that a library's measurements are in the journal."""
        self._log.append(self._run.key, {"library": library, "recorded": True})

    def _is_pass(self, line: Mapping[str, Any], library: int) -> bool:
        return line.get("library") == library and "nets_ms" in line


def _is_usable(line: Mapping[str, Any]) -> bool:
    """Whether a line is intact; a damaged pass is measured again."""
    try:
        return "nets_ms" not in line or bool(ChainTiming.from_dict(line))
    except (KeyError, TypeError, ValueError):
        return False
