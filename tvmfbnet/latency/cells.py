"""The cell of a latency table: what one part costs, and whether that was measured, predicted or simulated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvmfbnet.latency.measurement import IN_NET, Measurement
from tvmfbnet.latency.origin import MEASURED as MEASURED
from tvmfbnet.latency.origin import PREDICTED as PREDICTED
from tvmfbnet.latency.origin import SIMULATED as SIMULATED
from tvmfbnet.latency.origin import SOURCES as SOURCES
from tvmfbnet.latency.origin import Source as Source


@dataclass(frozen=True)
class Cell:
    """The latency of one part.

    Attributes:
        latency_ms: its share of a net's latency.
        spread_ms: one standard deviation: over repeats if measured, expected error if predicted, 0 if simulated.
        source: ``measured`` on a device, ``predicted`` from other cells, or ``simulated`` by a model of a processor.
        n: timed repeats (0 if not measured, or unknown).
        trials: tuning trials spent on it (0 if predicted or unknown).
        canary_ratio: the device's worst drift while the part was timed (1 is none); None if unknown.
        steady: whether the device kept its speed meanwhile, as far as known.
    """

    latency_ms: float
    spread_ms: float = 0.0
    source: Source = MEASURED
    n: int = 0
    trials: int = 0
    canary_ratio: float | None = None
    steady: bool = True


# What an identity skip costs.
NOTHING = Cell(0.0)


def cell_of(measurements: Sequence[Measurement]) -> Cell:
    """One part's cell from its measurements, oldest first."""
    last = measurements[-1]
    places = [item for item in measurements if item.trials == last.trials] if last.protocol == IN_NET else [last]
    chosen = [item for item in places if item.steady] or places
    latency = np.array([item.net_ms for item in chosen])
    # Spread within and between the measurements.
    spread = float(np.sqrt(np.mean([item.std_ms**2 for item in chosen]) + latency.var()))
    ratios = [item.canary_ratio for item in chosen if item.canary_ratio is not None]
    canary = max(ratios, key=lambda ratio: abs(ratio - 1.0), default=None)
    steady = all(item.steady for item in chosen)
    # One simulated measurement makes the cell a simulated one, whatever the others say.
    source: Source = SIMULATED if any(item.source == SIMULATED for item in chosen) else MEASURED
    return Cell(float(latency.mean()), spread, source, sum(item.n for item in chosen), last.trials, canary, steady)
