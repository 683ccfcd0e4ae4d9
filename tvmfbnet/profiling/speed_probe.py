"""Re-timing blocks of the latency table, inside nets as for the table, to measure the device's speed factor.

:mod:`tvmfbnet.latency.speed` defines the factor, its uncertainty and what it may be used for.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.latency.cells import MEASURED
from tvmfbnet.latency.measurement import IN_NET
from tvmfbnet.latency.speed import SpeedFactor, speed_factor
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.profiling.chained_nets import ChainedNets, schedule_parts
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.progress import say, step
from tvmfbnet.rpc.device_context import protocol_of
from tvmfbnet.space.space import NetPart
from tvmfbnet.targets.definition import ResolvedTarget

# Additional passes, at most, while the factor is too uncertain.
_MORE_PASSES = 12


def chained_factor(nets: ChainedNets, table: LatencyTable) -> SpeedFactor | None:
    """The speed factor from the passes over some nets; None if the table has no measured cell for any of their parts.

    A part that occurs at several places counts once, as the mean of its places.
    """
    places: dict[NetPart, list[tuple[int, int]]] = {}
    for number, net in enumerate(nets.nets):
        for index, part in enumerate(net):
            cell = table.cells.get(part)
            if cell is not None and cell.source == MEASURED and cell.latency_ms > 0:
                places.setdefault(part, []).append((number, index))
    by_part: list[list[float]] = []
    for part_places in places.values():
        passes = [nets.part_ms_by_pass(*place) for place in part_places]
        by_part.append([statistics.fmean(map(statistics.median, at_once)) for at_once in zip(*passes, strict=True)])
    now = list(zip(*by_part, strict=True))
    then = [table.cells[part].latency_ms for part in places]
    canary, steady = [whole.canary_ratio for whole in nets.wholes], all(whole.steady for whole in nets.wholes)
    return speed_factor(now, then, canary, steady)


def measure_speed_factor(nets: ChainedNets, table: LatencyTable, timer: DeviceTimer) -> float | None:
    """The speed factor to record in the journal (latencies there stay as measured); None if it stays too uncertain.

    While it is too uncertain, the parts are timed again, up to a limit.
    """
    for tries_left in reversed(range(_MORE_PASSES)):
        factor = chained_factor(nets, table)
        if factor is not None and factor.known:
            return factor.value
        if not tries_left or not any(cell.source == MEASURED for cell in table.cells.values()):
            break
        with step("timing blocks again for the device's speed factor", patience=1.0):
            nets.run_pass(timer)
    if factor is not None:
        say(f"note: the device's speed factor is not used: {factor.describe()}")
    return None


class SpeedProbe:
    """Nets whose parts are timed in turn with another measurement.

    Args:
        nets: the parts of each, in order of execution.
        target: a target whose parts are timed inside nets.
        database: the tuned schedules.
        table: latencies of the parts when the table was measured; not corrected.
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
        scheduled = schedule_parts(parts, target, database)
        self._chained, self._table = ChainedNets(nets, scheduled, target, folder / "probe.so"), table

    def run_pass(self, timer: DeviceTimer) -> None:
        """Times the parts once more."""
        self._chained.run_pass(timer)

    @property
    def factor(self) -> SpeedFactor | None:
        """The speed factor from the passes so far; None while there are too few."""
        return chained_factor(self._chained, self._table)


def can_probe(target: ResolvedTarget, table: LatencyTable, parts: Sequence[NetPart]) -> bool:
    """Whether these parts can give a target's speed factor: timed inside nets, and measured in the table."""
    cells = (table.cells.get(part) for part in parts)
    return protocol_of(target) == IN_NET and any(cell is not None and cell.source == MEASURED for cell in cells)
