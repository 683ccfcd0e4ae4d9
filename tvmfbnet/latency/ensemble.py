"""The ensemble behind the latency regressor: two models of the base model's residuals, both in logarithms.

Boosted trees (xgboost) predict the residual of log latency from a part's shape; they do best where a whole layer shape
is new. A Gaussian process predicts it from similar parts; it does best between measured blocks, and it states its own
uncertainty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.latency.features import loads, shapes
from tvmfbnet.latency.gaussian_process import GaussianProcess, fit_scales
from tvmfbnet.latency.kernel_sums import KernelBase
from tvmfbnet.latency.roofline import Base, fit_base
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_TREES = 60
# Forests with different seeds; the trees' prediction is their mean.
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
class Ensemble:
    """Base model, boosted trees and Gaussian process, fitted.

    Attributes:
        base: the physical base model, or the times of the parts' kernels.
        centre: median log of measured over base latency on this target.
        forests: the trees.
        process: the Gaussian process.
    """

    base: Base | KernelBase
    centre: float
    forests: tuple[xgboost.Booster, ...]
    process: GaussianProcess

    @property
    def physical(self) -> Base:
        """The physical base model, also where kernel times are the base."""
        return self.base.physical if isinstance(self.base, KernelBase) else self.base

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array, Array]:
        """Log latency by the trees and by the process, and the process's standard deviation: three arrays (parts,)."""
        base = self.base.log_ms(parts)
        data = xgboost.DMatrix(_inputs(parts, self.base))
        residual = np.mean([forest.predict(data).astype(np.float64) for forest in self.forests], axis=0)
        mean, deviation = self.process.predict(parts)
        return base + residual, base + self.centre + mean, deviation

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, the trees in xgboost's own JSON form."""
        return {
            "base": self.base.to_dict(),
            "centre": self.centre,
            "forests": [json.loads(forest.save_raw("json").decode()) for forest in self.forests],
            "scales": self.process.scales.tolist(),
            "parts": [part.to_dict() for part in self.process.parts],
            "values": self.process.values.tolist(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Ensemble:
        """Inverse of :meth:`to_dict`; KeyError, TypeError, ValueError or XGBoostError on other data."""
        forests = []
        for saved in value["forests"]:
            forest = xgboost.Booster()
            forest.load_model(bytearray(json.dumps(saved).encode()))
            forests.append(forest)
        parts = [NetPart.from_dict(part) for part in value["parts"]]
        process = GaussianProcess(parts, np.array(value["values"]), np.array(value["scales"]))
        base = (KernelBase if "kernels" in value["base"] else Base).from_dict(value["base"])
        return cls(base, float(value["centre"]), tuple(forests), process)


def fit_ensemble(
    parts: Sequence[NetPart],
    latency: Array,
    seed: int,
    start: Ensemble | None = None,
    forests: int = FORESTS,
    kernel_ms: Mapping[NetPart, float] | None = None,
    element_bytes: int = FLOAT32.bytes,
) -> Ensemble:
    """Fits base model, trees and process.

    Args:
        parts: what was measured.
        latency: (parts,) milliseconds.
        seed: of the trees.
        start: an ensemble of nearly the same parts; its base is the starting point, its process's scales are kept.
        forests: how many; fewer are faster and slightly worse.
        kernel_ms: summed latency of each part's kernels, timed alone, for these parts and those to be predicted; None
            if unknown.
        element_bytes: of one activation or weight.
    """
    # A part faster than an empty call was clamped to 0 ms; relative errors need something above.
    latency = np.maximum(latency, 0.1 * float(latency[latency > 0].min()))
    physical = fit_base(parts, latency, None if start is None else start.physical, element_bytes)
    base: Base | KernelBase = physical if kernel_ms is None else KernelBase(physical, kernel_ms)
    residuals = np.log(latency) - base.log_ms(parts)
    data = xgboost.DMatrix(_inputs(parts, base), residuals)
    trained = tuple(
        xgboost.train({**_PARAMETERS, "seed": seed * FORESTS + number}, data, _TREES) for number in range(forests)
    )
    centre = float(np.median(residuals))
    scales = fit_scales(parts, residuals - centre) if start is None else start.process.scales
    return Ensemble(base, centre, trained, GaussianProcess(parts, residuals - centre, scales))


def _inputs(parts: Sequence[NetPart], base: Base | KernelBase) -> Array:
    return np.column_stack([shapes(parts), loads(parts), base.log_ms(parts), base.log_shares(parts)])
