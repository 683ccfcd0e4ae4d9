"""Choosing which parts to measure, so that the rest can be predicted best.

Greedy: the next part is the one whose measurement lowers the summed variance of all parts most, by the Gaussian process
of the regressor (Cohn, Neural Network Exploration Using Optimal Experiment Design, 1996). The variance does not depend
on what the measurement will show, so a whole batch is chosen before the first of it is timed; only the scales of the
process are learned from what is known already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvmfbnet.latency.gaussian import Similarity, default_scales, noise_of
from tvmfbnet.latency.members import fit_members
from tvmfbnet.latency.regressor import MIN_SAMPLES, usable
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def choose_batch(
    parts: Sequence[NetPart],
    count: int,
    known: Mapping[NetPart, float] | None = None,
    weights: Mapping[NetPart, float] | None = None,
    seed: int = 0,
) -> tuple[NetPart, ...]:
    """The ``count`` parts whose measurement lowers the uncertainty about all of ``parts`` most, most telling first.

    Args:
        parts: what the table must cover; identity skips are passed over, they need no measurement.
        count: how many to choose; fewer come back where fewer are left.
        known: latency in milliseconds of parts that were measured already; they are not chosen again.
        weights: how much a part's uncertainty matters, such as in how many layers it is a candidate; 1 if not named.
        seed: of the fit that learns scales from ``known`` (from 8 measurements on; usual scales serve before).

    Raises:
        LatencyError: latencies in ``known`` are no latencies.
    """
    measured = {part: ms for part, ms in (known or {}).items() if not part.is_identity}
    every = list(dict.fromkeys([*(part for part in parts if not part.is_identity), *measured]))
    scales = _scales(measured, seed)
    covariance = Similarity(every, every).covariance(scales)
    importance = np.array([(weights or {}).get(part, 1.0) if part in set(parts) else 0.0 for part in every])
    noise = noise_of(scales)
    for index, part in enumerate(every):
        if part in measured:
            covariance = _after_measuring(covariance, index, noise)
    chosen: list[int] = []
    open_indices = [index for index, part in enumerate(every) if part not in measured]
    while open_indices and len(chosen) < count:
        gains = importance @ covariance[:, open_indices] ** 2 / (np.diag(covariance)[open_indices] + noise)
        best = open_indices.pop(int(gains.argmax()))
        chosen.append(best)
        covariance = _after_measuring(covariance, best, noise)
    return tuple(every[index] for index in chosen)


def _scales(measured: Mapping[NetPart, float], seed: int) -> Array:
    if len(measured) < MIN_SAMPLES:
        return default_scales()
    kept, latency = usable(list(measured), list(measured.values()))
    return fit_members(kept, latency, seed, forests=1).process.scales


def _after_measuring(covariance: Array, index: int, noise: float) -> Array:
    column = covariance[:, index]
    return np.asarray(covariance - np.outer(column, column) / (column[index] + noise))
