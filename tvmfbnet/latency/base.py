"""The physical base of the latency model: what work and traffic cost on one target.

Milliseconds per MAC of each kind of conv, per tensor element moved, per kernel started; all non-negative. It knows
little, but what it knows holds for blocks and layer shapes that were never measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from tvmfbnet.latency.features import WORK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# The fit: steps taken, and the log error from which on a sample counts less.
_STEPS = 8
_OUTLIER = 0.1
# Kinds of work that cost about the same where only one of them was measured.
_LIKE = {
    "depthwise_large": "depthwise_k3",
    "depthwise_k3": "depthwise_large",
    "pointwise_grouped": "pointwise",
    "pointwise": "pointwise_grouped",
}


def fit_costs(work: Array, latency: Array) -> Array:
    """Non-negative cost of each amount that minimises robust errors of log latency; (len(AMOUNTS),) ms a unit.

    Starts from least squares of relative errors, then takes damped Gauss-Newton steps on the logarithm, in which few
    outliers (a kernel that falls out of a cache) count less.
    """
    scale = work.max(axis=0)
    seen = scale > 0
    scale = np.where(seen, scale, 1.0)
    scaled = work / scale / latency[:, None]
    costs = nnls(scaled, np.ones(len(latency)))[0]
    for _ in range(_STEPS):
        fitted = np.maximum(scaled @ costs, 1e-9)
        error = -np.log(fitted)
        weight = 1.0 / np.sqrt(1.0 + (error / _OUTLIER) ** 2)
        step = nnls(scaled * (weight / fitted)[:, None], (error + 1.0) * weight)[0]
        costs = (costs + step) / 2.0
    costs = costs / scale
    return _price_unseen_work(costs, seen, work, latency)


def _price_unseen_work(costs: Array, seen: NDArray[np.bool_], work: Array, latency: Array) -> Array:
    """Work of a kind that was never measured is not free: it costs what its like costs, or what all work does."""
    total = work[:, : len(WORK)].sum(axis=1)
    usual = float(np.median(latency[total > 0] / total[total > 0])) if (total > 0).any() else 0.0
    priced = costs.copy()
    for index, kind in enumerate(WORK):
        if not seen[index]:
            like = costs[WORK.index(_LIKE[kind])] if kind in _LIKE else 0.0
            priced[index] = like if like > 0 else usual
    return priced
