"""Nets whose parts are timed inside them: compiled into one library, and timed on the device visit by visit.

A visit can be kept and given back, and a library that an earlier run compiled is taken as it is; so a run that was
killed goes on with the next visit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import tvm
from tvm.ir import IRModule

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.compiler.instrument import chain_nets
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build_prepared, lower, prepare
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.device_timer import ChainTiming, DeviceTimer
from tvmfbnet.progress import progress
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import ResolvedTarget


class ChainedNets:
    """Some nets as chains of parts, in one library on this machine's disk, and what their visits showed.

    Args:
        nets: the parts of each, in order of execution.
        scheduled: gives each of these parts as :func:`schedule_parts` does; asked only where there is no library yet.
        target: a CPU target.
        library: the file to write, whole or not at all; one that is there is taken for what it would be.
        visits: those that an earlier run made.
    """

    def __init__(
        self,
        nets: Sequence[Sequence[NetPart]],
        scheduled: Mapping[NetPart, IRModule] | Callable[[], Mapping[NetPart, IRModule]],
        target: ResolvedTarget,
        library: Path,
        visits: Iterable[ChainTiming] = (),
    ) -> None:
        self.nets, self._library = nets, library
        self._visits = list(visits)
        if library.exists():
            return
        parts = scheduled() if callable(scheduled) else scheduled
        compiled_for = target.for_tvm()
        chains = chain_nets([[parts[part] for part in net] for net in nets], compiled_for)
        with scratch_folder(library.parent) as folder:
            save_library(build_prepared(chains, compiled_for), folder / library.name, target).replace(library)

    @property
    def visits(self) -> int:
        """How many were made, those of earlier runs included."""
        return len(self._visits)

    def visit(self, timer: DeviceTimer) -> ChainTiming:
        """Times all nets once more, ``timing.chain_runs`` runs each."""
        shape, runs = part_input_shape(self.nets[0][0]), timer.target.timing.chain_runs
        self._visits.append(timer.chains(self._library, shape, len(self.nets), runs))
        return self._visits[-1]

    def part_ms(self, net: int, index: int) -> list[float]:
        """What the part at one place of one net took in every run of every visit, milliseconds."""
        return [ms for visit in self._visits for ms in visit.nets_ms[net][index]]

    def part_visits_ms(self, net: int, index: int) -> list[tuple[float, ...]]:
        """As :meth:`part_ms`, one tuple a visit."""
        return [visit.nets_ms[net][index] for visit in self._visits]

    @property
    def wholes(self) -> list[HonestTiming]:
        """What each visit so far says of the device, and of the nets as a whole."""
        return [visit.whole for visit in self._visits]

    def whole(self) -> HonestTiming:
        """What all visits together say of the device, and of the nets as a whole."""
        return pooled([visit.whole for visit in self._visits])


def schedule_parts(
    parts: Sequence[NetPart],
    compiled_for: tvm.target.Target,
    database: TuningDatabase,
    lowered: Mapping[NetPart, IRModule] | None = None,
) -> dict[NetPart, IRModule]:
    """Parts with the schedules that tuning found; those that are not among ``lowered`` are lowered now."""
    known = lowered or {}
    missing = [part for part in parts if part not in known]
    fresh: dict[NetPart, IRModule] = {}
    if missing:
        from tvmfbnet.compiler.export import export_parts  # loads torch

        fresh = {part: lower(model, compiled_for) for part, model in export_parts(missing).items()}
    found: dict[NetPart, IRModule] = {}
    with progress("scheduling blocks", len(parts)) as reporter:
        for part in parts:
            mod = fresh[part] if part in fresh else known[part]
            found[part] = prepare(mod, compiled_for, database.records)
            reporter.advance()
    return found
