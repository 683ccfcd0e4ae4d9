"""Timing blocks of the latency table again, inside nets as the table's were, to learn the device's speed factor.

What the factor means, how well it is known and what it may be used for: :mod:`tvmfbnet.latency.speed`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.latency.measurement import IN_NET
from tvmfbnet.latency.speed import SpeedFactor, speed_factor
from tvmfbnet.latency.table import MEASURED, LatencyTable
from tvmfbnet.profiling.chained_nets import ChainedNets, schedule_parts
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.progress import say, step
from tvmfbnet.rpc.device_context import protocol_of
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import ResolvedTarget

# So often more the parts are timed while their factor is not known well.
_MORE_VISITS = 12


def chained_factor(nets: ChainedNets, table: LatencyTable) -> SpeedFactor | None:
    """The speed factor that visits to some nets show; None where the table holds none of their parts as measured.

    A part that stands at several places counts once, as the mean of its places.
    """
    places: dict[NetPart, list[tuple[int, int]]] = {}
    for number, net in enumerate(nets.nets):
        for index, part in enumerate(net):
            cell = table.cells.get(part)
            if cell is not None and cell.source == MEASURED and cell.latency_ms > 0:
                places.setdefault(part, []).append((number, index))
    by_part: list[list[float]] = []
    for found in places.values():
        visits = [nets.part_visits_ms(*place) for place in found]
        by_part.append([statistics.fmean(map(statistics.median, at_once)) for at_once in zip(*visits, strict=True)])
    now = list(zip(*by_part, strict=True))
    then = [table.cells[part].latency_ms for part in places]
    canary, steady = [whole.canary_ratio for whole in nets.wholes], all(whole.steady for whole in nets.wholes)
    return speed_factor(now, then, canary, steady)


def pace_of(nets: ChainedNets, table: LatencyTable, timer: DeviceTimer) -> float | None:
    """The speed factor's value for the journal, whose latencies stay as measured; None where it is not known well.

    While it is not, the parts are timed again, a few times.
    """
    for tries_left in reversed(range(_MORE_VISITS)):
        found = chained_factor(nets, table)
        if found is not None and found.known:
            return found.value
        if not tries_left or not any(cell.source == MEASURED for cell in table.cells.values()):
            break
        with step("timing blocks again for the device's speed factor", patience=1.0):
            nets.visit(timer)
    if found is not None:
        say(f"note: the device's speed factor is not used: {found.describe()}")
    return None


class SpeedProbe:
    """Some nets whose parts are timed in turn with another measurement.

    Args:
        nets: the parts of each, in order of execution.
        target: a target whose parts are timed inside nets.
        database: what tuning found.
        table: what the parts took when the table was made; not corrected.
        folder: for the library.
    """

    def __init__(
        self,
        nets: Sequence[Sequence[NetPart]],
        target: ResolvedTarget,
        database: TuningDatabase,
        table: LatencyTable,
        folder: Path,
    ) -> None:
        parts = list(dict.fromkeys(part for net in nets for part in net))
        scheduled = schedule_parts(parts, target.for_tvm(), database)
        self._chained, self._table = ChainedNets(nets, scheduled, target, folder / "probe.so"), table

    def visit(self, timer: DeviceTimer) -> None:
        """Times the parts once more."""
        self._chained.visit(timer)

    @property
    def factor(self) -> SpeedFactor | None:
        """What the visits so far say; None while they are too few."""
        return chained_factor(self._chained, self._table)


def can_probe(target: ResolvedTarget, table: LatencyTable, parts: Sequence[NetPart]) -> bool:
    """Whether a target's speed factor can be told by these parts: timed inside nets here and for the table."""
    cells = (table.cells.get(part) for part in parts)
    return protocol_of(target) == IN_NET and any(cell is not None and cell.source == MEASURED for cell in cells)
