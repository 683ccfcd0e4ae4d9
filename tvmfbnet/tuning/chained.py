"""Nets whose parts are timed inside them: compiled into one library, and timed on the device visit by visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tvm
from tvm.ir import IRModule

from tvmfbnet.compiler.chaining import chain_nets
from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build_prepared, lower, prepare
from tvmfbnet.devices.target import Target
from tvmfbnet.devices.timing import HonestTiming, pooled
from tvmfbnet.progress import progress
from tvmfbnet.space.space import NetPart
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.timer import ChainTiming, DeviceTimer


class ChainedNets:
    """Some nets as chains of parts, in one library on this machine's disk, and what their visits showed.

    Args:
        nets: the parts of each, in order of execution.
        scheduled: each of these parts, as :func:`schedule_parts` gives it.
        target: a (resolved) CPU target.
        library: the file to write.
    """

    def __init__(
        self,
        nets: Sequence[Sequence[NetPart]],
        scheduled: Mapping[NetPart, IRModule],
        target: Target,
        library: Path,
    ) -> None:
        self.nets = nets
        compiled_for = tvm.target.Target(target.tvm)
        chains = chain_nets([[scheduled[part] for part in net] for net in nets], compiled_for)
        self._library = save_library(build_prepared(chains, compiled_for), library, target)
        self._visits: list[ChainTiming] = []

    def visit(self, timer: DeviceTimer) -> None:
        """Times all nets once more, ``timing.chain_runs`` runs each."""
        shape, runs = part_input_shape(self.nets[0][0]), timer.target.timing.chain_runs
        self._visits.append(timer.chains(self._library, shape, len(self.nets), runs))

    def part_ms(self, net: int, index: int) -> list[float]:
        """What the part at one place of one net took in every run of every visit, milliseconds."""
        return [ms for visit in self._visits for ms in visit.nets_ms[net][index]]

    def part_visits_ms(self, net: int, index: int) -> list[tuple[float, ...]]:
        """As :meth:`part_ms`, one tuple a visit."""
        return [visit.nets_ms[net][index] for visit in self._visits]

    @property
    def visits(self) -> list[HonestTiming]:
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
    known = dict(lowered or {})
    missing = [part for part in parts if part not in known]
    known.update((part, lower(model, compiled_for)) for part, model in export_parts(missing).items())
    found: dict[NetPart, IRModule] = {}
    with progress("scheduling blocks", len(parts)) as reporter:
        for part in parts:
            found[part] = prepare(known[part], compiled_for, database.records)
            reporter.advance()
    return found
