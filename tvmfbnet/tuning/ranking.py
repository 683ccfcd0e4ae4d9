"""Predicts how fast a templated kernel will be from its shape and knobs; learns from every trial, over all kernels.

What it learns of one kernel serves the next: after a few kernels the first round of a new one already holds good
candidates. A new run learns from the log of earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xgboost

from tvmfbnet.tuning.knobs import KernelShape, Knobs, Registers, accumulators, features, loads_per_product

Array = npt.NDArray[np.float64]

# Trials before the first fit; until then a rule of thumb ranks. Later fits wait until this share of trials is new.
_FIRST_FIT = 48
_REFIT_SHARE = 0.15
_TREES = 150
_PARAMETERS = {
    "max_depth": 7,
    "eta": 0.1,
    "subsample": 0.9,
    "colsample_bytree": 0.8,
    "lambda": 1.0,
    "nthread": 1,
    "tree_method": "hist",
}
# A failed trial counts as this many times slower than an average one.
_FAILED = math.log(8.0)


class Ranking:
    """Gradient-boosted trees on log(milliseconds a product).

    Args:
        registers: of the target.
        seed: of the trees' sampling.

    ``fits`` counts how often the trees were fitted: predictions stay the same until it changes.
    """

    def __init__(self, registers: Registers, seed: int = 0) -> None:
        self.registers, self.seed = registers, seed
        self._rows: list[list[float]] = []
        self._logs: list[float] = []
        self._fitted = 0
        self.fits = 0
        self._trees: xgboost.Booster | None = None

    def add(self, shape: KernelShape, knobs: Knobs, latency_ms: float | None) -> None:
        """Takes one trial; None where it failed."""
        log = math.log(latency_ms / shape.products) if latency_ms is not None else math.nan
        self._rows.append(features(shape, knobs, self.registers))
        self._logs.append(log)

    def rows(self, shape: KernelShape, candidates: Sequence[Knobs]) -> Array:
        """The features of candidates, (candidates, features): what :meth:`predict_ms` takes."""
        return np.array([features(shape, knobs, self.registers) for knobs in candidates], dtype=np.float64)

    def predict_ms(self, shape: KernelShape, rows: Array) -> Array | None:
        """Expected milliseconds of each row, (rows,); None while there are too few trials to learn from."""
        self._refit()
        if self._trees is None:
            return None
        logs = self._trees.predict(xgboost.DMatrix(rows)).astype(np.float64)
        return np.asarray(np.exp(logs) * shape.products, dtype=np.float64)

    def thumb(self, shape: KernelShape, knobs: Knobs) -> float:
        """A rule of thumb, lower is better: few loads a multiply-add, sums enough to hide its delay."""
        sums = accumulators(knobs, self.registers)
        hidden = min(1.0, sums / 8)
        return loads_per_product(shape, knobs, self.registers) + 0.5 * (1.0 - hidden)

    def _refit(self) -> None:
        total = len(self._logs)
        if total < _FIRST_FIT or total - self._fitted < max(16, _REFIT_SHARE * self._fitted):
            return
        logs = np.array(self._logs)
        known = logs[np.isfinite(logs)]
        if len(known) < _FIRST_FIT // 2:
            return
        logs = np.where(np.isfinite(logs), logs, known.mean() + _FAILED)
        data = xgboost.DMatrix(np.array(self._rows), logs)
        parameters = {**_PARAMETERS, "base_score": float(known.mean()), "seed": self.seed}
        self._trees, self._fitted = xgboost.train(parameters, data, _TREES), total
        self.fits += 1
