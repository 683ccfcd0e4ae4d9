"""How fast the device is now, against when the blocks of the table were timed.

A shared or a warm device changes its speed by several per cent within minutes, for all kernels alike. Whole nets that
are timed in such minutes would seem not to be the sum of their blocks. So the blocks of a few of these nets are timed
again meanwhile, inside nets, as the table's were: their sum over the table's sum is the device's *pace*.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm

from tvmfbnet.compiler.chaining import chain_nets
from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build_prepared, lower, prepare
from tvmfbnet.devices.target import Target
from tvmfbnet.latency.table import MEASURED, LatencyTable
from tvmfbnet.space.space import NetPart
from tvmfbnet.tuning.database import TuningDatabase
from tvmfbnet.tuning.timer import ChainTiming, DeviceTimer


class PaceNets:
    """Nets as chains of parts, in one library on this machine's disk, and what their visits showed.

    Args:
        nets: the parts of each.
        target: a (resolved) CPU target.
        database: the schedules that the table's parts have.
        library: the file to write.
    """

    def __init__(
        self, nets: Sequence[Sequence[NetPart]], target: Target, database: TuningDatabase, library: Path
    ) -> None:
        self._nets = nets
        compiled_for = tvm.target.Target(target.tvm)
        models = export_parts(list(dict.fromkeys(part for net in nets for part in net)))
        parts = {
            part: prepare(lower(model, compiled_for), compiled_for, database.records) for part, model in models.items()
        }
        chains = chain_nets([[parts[part] for part in net] for net in nets], compiled_for)
        self._library = save_library(build_prepared(chains, compiled_for), library, target)
        self._visits: list[ChainTiming] = []

    def visit(self, timer: DeviceTimer) -> None:
        """Times all of them once more."""
        shape, runs = part_input_shape(self._nets[0][0]), timer.target.timing.chain_runs
        self._visits.append(timer.chains(self._library, shape, len(self._nets), runs))

    def pace(self, table: LatencyTable) -> float | None:
        """What the parts took, over what the table says of them: 1.08 is a device that became 8 % slower.

        None where the table holds none of the parts as measured, or nothing was timed.
        """
        now = then = 0.0
        for place, net in enumerate(self._nets):
            for index, part in enumerate(net):
                cell = table.cells.get(part)
                if cell is not None and cell.source == MEASURED and self._visits:
                    now += float(np.median([ms for visit in self._visits for ms in visit.nets_ms[place][index]]))
                    then += cell.latency_ms
        return now / then if then > 0 else None
