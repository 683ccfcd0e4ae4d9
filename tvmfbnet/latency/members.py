"""The two experts behind the latency regressor, both on top of the physical base model, both in logarithms.

Boosted trees (xgboost) learn what is left of log latency after the base from a part's shape; they are at their best
where a whole layer shape is new. A Gaussian process learns it from parts that are alike; it is at its best between
measured blocks, and it knows how sure it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from tvmfbnet.latency.base import fit_costs
from tvmfbnet.latency.features import amounts, loads, shapes
from tvmfbnet.latency.gaussian import GaussianProcess, fit_scales
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_TREES = 120
# Forests of other seeds whose mean is the trees' prediction.
FORESTS = 3
_PARAMETERS: dict[str, Any] = {
    "max_depth": 6,
    "eta": 0.1,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "min_child_weight": 1,
    "lambda": 0.3,
    "base_score": 0.0,
    "nthread": 1,  # the same trees on every machine
}


@dataclass(frozen=True)
class Members:
    """Base model, trees and process, fitted.

    Attributes:
        costs: (len(AMOUNTS),) ms a unit of work.
        floor_ms: no base latency goes below.
        centre: log of measured over base latency that is usual on this target.
        forests: the trees.
        process: the Gaussian process.
    """

    costs: Array
    floor_ms: float
    centre: float
    forests: tuple[xgboost.Booster, ...]
    process: GaussianProcess

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array, Array]:
        """Log latency by the trees and by the process, and the process's standard deviation: three arrays (parts,)."""
        base = _log_base(parts, self.costs, self.floor_ms)
        data = xgboost.DMatrix(_inputs(parts, base))
        learned = np.mean([forest.predict(data).astype(np.float64) for forest in self.forests], axis=0)
        mean, deviation = self.process.predict(parts)
        return base + learned, base + self.centre + mean, deviation

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, the trees in xgboost's own JSON form."""
        return {
            "costs_ms": self.costs.tolist(),
            "floor_ms": self.floor_ms,
            "centre": self.centre,
            "forests": [json.loads(forest.save_raw("json").decode()) for forest in self.forests],
            "scales": self.process.scales.tolist(),
            "parts": [part.to_dict() for part in self.process.parts],
            "values": self.process.values.tolist(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Members:
        """What :meth:`to_dict` gave; KeyError, TypeError, ValueError or XGBoostError on other data."""
        forests = []
        for saved in value["forests"]:
            forest = xgboost.Booster()
            forest.load_model(bytearray(json.dumps(saved).encode()))
            forests.append(forest)
        parts = [NetPart.from_dict(part) for part in value["parts"]]
        process = GaussianProcess(parts, np.array(value["values"]), np.array(value["scales"]))
        return cls(
            np.array(value["costs_ms"]), float(value["floor_ms"]), float(value["centre"]), tuple(forests), process
        )


def fit_members(
    parts: Sequence[NetPart], latency: Array, seed: int, scales: Array | None = None, forests: int = FORESTS
) -> Members:
    """Fits all of them.

    Args:
        parts: what was measured.
        latency: (parts,) milliseconds.
        seed: of the trees.
        scales: of the process; found from the data if None.
        forests: how many; fewer are faster and a little worse.
    """
    # A part faster than an empty call was clamped to 0 ms; relative errors need something above.
    floor = 0.1 * float(latency[latency > 0].min())
    latency = np.maximum(latency, floor)
    costs = fit_costs(amounts(parts), latency)
    base = _log_base(parts, costs, floor)
    left = np.log(latency) - base
    data = xgboost.DMatrix(_inputs(parts, base), left)
    grown = tuple(
        xgboost.train({**_PARAMETERS, "seed": seed * FORESTS + number}, data, _TREES) for number in range(forests)
    )
    centre = float(np.median(left))
    found = fit_scales(parts, left - centre) if scales is None else scales
    return Members(costs, floor, centre, grown, GaussianProcess(parts, left - centre, found))


def _log_base(parts: Sequence[NetPart], costs: Array, floor_ms: float) -> Array:
    return np.asarray(np.log(np.maximum(amounts(parts) @ costs, floor_ms)))


def _inputs(parts: Sequence[NetPart], base: Array) -> Array:
    return np.column_stack([shapes(parts), loads(parts), base])
