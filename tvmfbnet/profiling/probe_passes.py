"""Timing parts inside nets, as a thing that can be killed and continued: which nets, and the visits made so far.

The nets are drawn once and written down with the first line of a run, since what is due changes while measurements are
recorded: a run that starts again continues with these nets, and with the visits that they still lack.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvmfbnet.latency.passes import VisitLog, run_key
from tvmfbnet.profiling.device_timer import ChainTiming
from tvmfbnet.space.space import NetPart


@dataclass(frozen=True)
class NetsRun:
    """Nets that are timed so that some of their parts are measured.

    Attributes:
        key: names the run in the visits' file.
        nets: the parts of each, in order of execution.
        due: the parts that are measured.
        trials: that the kernels of each part had had.
        shared: what all visits have in common: context, protocol, timing policy; plain data.
        overhead_ms: the device's cost of an empty call when the run was begun.
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
        """A run of which no visit was made."""
        run = cls("", nets, due, trials, shared, overhead_ms)
        return cls(run_key(run.to_dict()), nets, due, trials, shared, overhead_ms)

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


def runs_begun(log: VisitLog, shared: Mapping[str, Any], trials: Mapping[NetPart, int]) -> list[NetsRun]:
    """Runs in nets that an earlier process left unfinished and this one can continue.

    Runs of parts whose kernels got more trials since then are forgotten; those of other spaces wait for their turn.

    Args:
        log: the visits.
        shared: see :class:`NetsRun`.
        trials: that the kernels of this process's parts had had.
    """
    found, known = [], log.runs()
    for key, lines in known.items():
        try:
            run = NetsRun.from_dict(key, lines[0])
        except (KeyError, IndexError, TypeError, ValueError):
            continue  # whole nets
        if run.shared != shared or not run.due.issubset(trials):
            continue
        if all(trials.get(part, 0) == count for part, count in run.trials.items()):
            found.append(run)
        else:
            log.drop(key)
    for folder in log.path.parent.glob("carriers-*"):
        if folder.name.removeprefix("carriers-") not in log.runs():
            shutil.rmtree(folder, ignore_errors=True)
    return found


class VisitsMade:
    """The visits of one run, by library of nets; begins the run on the disk where it is not there yet.

    Args:
        run: which.
        log: where they are.

    Attributes:
        recorded: libraries whose measurements are in the journal.
    """

    def __init__(self, run: NetsRun, log: VisitLog) -> None:
        self._run, self._log = run, log
        self._lines = [line for line in log.runs().get(run.key, []) if _is_usable(line)]
        if not self._lines:
            log.append(run.key, run.to_dict())
        self.recorded = {line["library"] for line in self._lines if line.get("recorded")}

    def visits(self, library: int) -> list[ChainTiming]:
        """Those of one library."""
        return [ChainTiming.from_dict(line) for line in self._lines if self._is_visit(line, library)]

    def add(self, library: int, timing: ChainTiming, fingerprint: Mapping[str, Any]) -> None:
        """Writes one visit down; ``fingerprint`` is what the device told about itself."""
        line = {"library": library, **timing.to_dict(), "fingerprint": dict(fingerprint)}
        self._log.append(self._run.key, line)
        self._lines.append(line)

    def fingerprint(self, library: int) -> Mapping[str, Any]:
        """What the device told at a library's last visit."""
        found: Mapping[str, Any] = [line for line in self._lines if self._is_visit(line, library)][-1]["fingerprint"]
        return found

    def mark_recorded(self, library: int) -> None:
        """The journal holds what a library showed."""
        self._log.append(self._run.key, {"library": library, "recorded": True})

    def _is_visit(self, line: Mapping[str, Any], library: int) -> bool:
        return line.get("library") == library and "nets_ms" in line


def _is_usable(line: Mapping[str, Any]) -> bool:
    """Whether a line is whole; a damaged visit is made again."""
    try:
        return "nets_ms" not in line or bool(ChainTiming.from_dict(line))
    except (KeyError, TypeError, ValueError):
        return False
