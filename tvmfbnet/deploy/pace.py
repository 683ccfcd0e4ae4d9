"""How fast the device is now, against when the blocks of the table were timed.

A shared or a warm device changes its speed by several per cent within minutes, for all kernels alike. Whole nets that
are timed in such minutes would seem not to be the sum of their blocks. So the blocks of a few of these nets are timed
again meanwhile, inside nets, as the table's were: their sum over the table's sum is the device's *pace*.
"""

from __future__ import annotations

import numpy as np

from tvmfbnet.latency.table import MEASURED, LatencyTable
from tvmfbnet.tuning.chained import ChainedNets


def pace_of(nets: ChainedNets, table: LatencyTable) -> float | None:
    """What the parts of nets took, over what the table says of them: 1.08 is a device that became 8 % slower.

    None where the table holds none of the parts as measured.
    """
    now = then = 0.0
    for place, net in enumerate(nets.nets):
        for index, part in enumerate(net):
            cell = table.cells.get(part)
            if cell is not None and cell.source == MEASURED:
                now += float(np.median(nets.part_ms(place, index)))
                then += cell.latency_ms
    return now / then if then > 0 else None
