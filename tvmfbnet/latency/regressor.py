"""Predicts the latency of parts that were not measured, from those of the same target that were.

Two stages. A physical base model says what work and traffic cost on this target: milliseconds per MAC of each kind of
conv, per tensor element moved, per kernel started, all non-negative. Boosted trees (xgboost) then learn what is left,
as the logarithm of measured over base latency, from the part's shape. The base extrapolates sensibly from few samples;
the trees add what caches and kernel variants do.

The expected error of a prediction comes from cross-validation within the fit: it is relative, one figure a target.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost
from scipy.optimize import nnls
from scipy.stats import spearmanr

from tvmfbnet.errors import LatencyError, StorageError
from tvmfbnet.files import read_json, write_json
from tvmfbnet.latency.features import AMOUNTS, SHAPES, WORK, amounts, shapes
from tvmfbnet.latency.table import MEASURED, LatencyTable
from tvmfbnet.space.space import BLOCK, NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SCHEMA_VERSION = 1
MIN_SAMPLES = 8

# Two-sided 90 % of a normal distribution, in standard deviations.
_Z90 = 1.645
# The base fit: steps taken, and the log error from which on a sample counts less.
_STEPS = 8
_OUTLIER = 0.1
# Kinds of work that cost about the same where only one of them was measured.
_LIKE = {
    "depthwise_large": "depthwise_k3",
    "depthwise_k3": "depthwise_large",
    "pointwise_grouped": "pointwise",
    "pointwise": "pointwise_grouped",
}
_TREES = 250
_FOLDS = 5
_PARAMETERS: dict[str, Any] = {
    "max_depth": 6,
    "eta": 0.05,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "min_child_weight": 1,
    "lambda": 0.3,
    "base_score": 0.0,
    "nthread": 1,  # the same trees on every machine
}


@dataclass(frozen=True)
class _Model:
    """Both stages, fitted. ``costs``: (len(AMOUNTS),) ms a unit; ``floor_ms``: no prediction goes below."""

    costs: Array
    floor_ms: float
    trees: xgboost.Booster

    def base(self, parts: Sequence[NetPart]) -> Array:
        return np.maximum(amounts(parts) @ self.costs, self.floor_ms)

    def predict(self, parts: Sequence[NetPart]) -> Array:
        base = self.base(parts)
        correction = self.trees.predict(xgboost.DMatrix(_inputs(parts, base)))
        return np.asarray(base * np.exp(correction.astype(np.float64)), dtype=np.float64)


class LatencyRegressor:
    """Predicts latencies of one target. Fit before use; deterministic for one seed.

    Args:
        seed: of the trees and of the folds that estimate the error.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._model: _Model | None = None
        self.relative_spread = math.nan

    def fit(self, parts: Sequence[NetPart], latency_ms: Sequence[float] | Array) -> LatencyRegressor:
        """Fits to measured parts; identity skips among them are left out, they compute nothing.

        Args:
            parts: the parts.
            latency_ms: their latencies, call overhead taken off, one a part.

        Raises:
            LatencyError: fewer than 8 usable samples, or latencies that are no latencies.
        """
        kept, latency = _usable(parts, latency_ms)
        self._model = _fit(kept, latency, self.seed)
        self.relative_spread = self._estimate_spread(kept, latency)
        return self

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array]:
        """Latency and its expected error (one standard deviation): two arrays (parts,), milliseconds.

        Identity skips get 0 in both. Raises LatencyError before :meth:`fit`.
        """
        model = self._fitted()
        latency = np.zeros(len(parts))
        computing = [index for index, part in enumerate(parts) if not part.is_identity]
        if computing:
            latency[computing] = model.predict([parts[index] for index in computing])
        return latency, latency * self.relative_spread

    def save(self, path: Path) -> None:
        """Writes the fitted model as JSON, atomically."""
        model = self._fitted()
        write_json(
            path,
            {
                "schema_version": SCHEMA_VERSION,
                "amounts": list(AMOUNTS),
                "shapes": list(SHAPES),
                "seed": self.seed,
                "relative_spread": self.relative_spread,
                "costs_ms": model.costs.tolist(),
                "floor_ms": model.floor_ms,
                "trees": json.loads(model.trees.save_raw("json").decode()),
            },
        )

    @classmethod
    def load(cls, path: Path) -> LatencyRegressor:
        """Reads a model that :meth:`save` wrote; :class:`StorageError` where it is unreadable or of another form."""
        value = read_json(path)
        try:
            form = (value["schema_version"], value["amounts"], value["shapes"])
            if form != (SCHEMA_VERSION, list(AMOUNTS), list(SHAPES)):
                raise StorageError(f"{path} was written by another version of tvmfbnet; fit the regressor again")
            regressor = cls(int(value["seed"]))
            trees = xgboost.Booster()
            trees.load_model(bytearray(json.dumps(value["trees"]).encode()))
            regressor._model = _Model(np.array(value["costs_ms"], dtype=np.float64), float(value["floor_ms"]), trees)
            regressor.relative_spread = float(value["relative_spread"])
        except (KeyError, TypeError, ValueError, xgboost.core.XGBoostError) as error:
            raise StorageError(f"{path} is no latency regressor ({type(error).__name__}); fit it again") from error
        return regressor

    @classmethod
    def score(
        cls, parts: Sequence[NetPart], latency_ms: Sequence[float] | Array, splits: int = 20, seed: int = 0
    ) -> dict[str, float | int]:
        """How well parts that were held out are predicted: random 80/20 splits, figures pooled over all of them.

        Blocks are held out; stem and head, each the only one of its kind and always measured, stay in the fit.

        Returns:
            ``mape`` (mean absolute relative error), ``within_10`` (share within 10 %), ``spearman`` (rank
            correlation), ``coverage_90`` (share inside the predicted 90 % interval), ``baseline_mape`` (a constant
            plus a cost per MAC, no trees), ``n`` (samples), ``held_out`` (predictions scored).

        Raises:
            LatencyError: as :meth:`fit`.
        """
        kept, latency = _usable(parts, latency_ms)
        blocks = [index for index, part in enumerate(kept) if part.part == BLOCK] or list(range(len(kept)))
        rng = np.random.default_rng(seed)
        rows = []
        for _ in range(splits):
            held = rng.permutation(blocks)[: max(1, len(blocks) // 5)].tolist()
            rest = sorted(set(range(len(kept))) - set(held))
            known, unknown = [kept[index] for index in rest], [kept[index] for index in held]
            regressor = cls(seed)
            regressor._model = _fit(known, latency[rest], seed)
            regressor.relative_spread = regressor._estimate_spread(known, latency[rest])
            predicted, spread = regressor.predict(unknown)
            rows.append(np.stack([latency[held], predicted, spread, _macs_only(known, latency[rest], unknown)]))
        return _figures(np.concatenate(rows, axis=1), len(kept))

    def _fitted(self) -> _Model:
        if self._model is None:
            raise LatencyError("the latency regressor has not been fitted yet")
        return self._model

    def _estimate_spread(self, parts: Sequence[NetPart], latency: Array) -> float:
        """Relative standard deviation whose 90 % interval held 90 % of the samples that a fold left out."""
        order = np.random.default_rng(self.seed).permutation(len(parts))
        errors: list[float] = []
        for held in np.array_split(order, min(_FOLDS, len(parts))):
            rest = np.setdiff1d(order, held)
            model = _fit([parts[index] for index in rest], latency[rest], self.seed)
            predicted = model.predict([parts[index] for index in held])
            errors.extend(np.abs(latency[held] / predicted - 1.0))
        rank = min(len(errors), math.ceil(0.9 * (len(errors) + 1)))  # the conformal quantile: honest for few samples
        return float(np.sort(errors)[rank - 1]) / _Z90


def complete(table: LatencyTable, parts: Sequence[NetPart], seed: int = 0) -> LatencyTable:
    """Fills the cells of ``parts`` that a table lacks with predictions learned from its measured cells.

    Raises:
        LatencyError: parts are missing and there are too few measured cells to learn from; lists the missing ones.
    """
    if not table.missing(parts):
        return table
    known = {part: cell for part, cell in table.cells.items() if cell.source == MEASURED and not part.is_identity}
    if len(known) < MIN_SAMPLES:
        table.require(parts)
    regressor = LatencyRegressor(seed).fit(list(known), [cell.latency_ms for cell in known.values()])
    return table.fill(regressor, parts)


def _usable(parts: Sequence[NetPart], latency_ms: Sequence[float] | Array) -> tuple[list[NetPart], Array]:
    latency = np.asarray(latency_ms, dtype=np.float64)
    if latency.shape != (len(parts),):
        raise LatencyError(f"{len(parts)} parts came with latencies of shape {latency.shape}; one a part is needed")
    if not np.isfinite(latency).all() or (latency < 0).any():
        raise LatencyError("latencies must be finite and not negative")
    keep = [index for index, part in enumerate(parts) if not part.is_identity]
    if len(keep) < MIN_SAMPLES or not (latency[keep] > 0).any():
        raise LatencyError(
            f"the latency regressor needs at least {MIN_SAMPLES} measured parts, there are {len(keep)}; measure more"
        )
    return [parts[index] for index in keep], latency[keep]


def _fit(parts: Sequence[NetPart], latency: Array, seed: int) -> _Model:
    # A part faster than an empty call was clamped to 0 ms; relative errors need something above.
    floor = 0.1 * float(latency[latency > 0].min())
    latency = np.maximum(latency, floor)
    costs = _fit_costs(amounts(parts), latency)
    base = np.maximum(amounts(parts) @ costs, floor)
    data = xgboost.DMatrix(_inputs(parts, base), np.log(latency / base))
    return _Model(costs, floor, xgboost.train({**_PARAMETERS, "seed": seed}, data, _TREES))


def _fit_costs(work: Array, latency: Array) -> Array:
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


def _inputs(parts: Sequence[NetPart], base: Array) -> Array:
    return np.column_stack([shapes(parts), np.log(base)])


def _macs_only(known: Sequence[NetPart], latency: Array, unknown: Sequence[NetPart]) -> Array:
    """The naive prediction that the regressor has to beat: a constant and one cost for all MACs."""

    def columns(parts: Sequence[NetPart]) -> Array:
        return np.column_stack([amounts(parts)[:, : len(WORK)].sum(axis=1) / 1e6, np.ones(len(parts))])

    floor = np.maximum(latency, 1e-9)
    costs = nnls(columns(known) / floor[:, None], np.ones(len(known)))[0]
    return np.asarray(columns(unknown) @ costs, dtype=np.float64)


def _figures(pooled: Array, samples: int) -> dict[str, float | int]:
    latency, predicted, spread, naive = pooled[:, pooled[0] > 0]
    error = np.abs(predicted / latency - 1.0)
    rank = float(spearmanr(latency, predicted).statistic) if len(latency) > 1 else 0.0
    return {
        "mape": float(error.mean()),
        "within_10": float((error <= 0.1).mean()),
        "spearman": rank if math.isfinite(rank) else 0.0,
        "coverage_90": float((np.abs(predicted - latency) <= _Z90 * spread).mean()),
        "baseline_mape": float(np.abs(naive / latency - 1.0).mean()),
        "n": samples,
        "held_out": len(latency),
    }
