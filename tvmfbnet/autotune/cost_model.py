"""The cost model of templated kernels: predicts latency from shape and knobs, and learns from all kernels' trials.

It generalises across kernels: after a few of them, the first round of a new kernel already contains good candidates.
A new run starts from the log of earlier runs and, where the user names other targets, transfers from theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xgboost

from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.machines import AnyKnobs, Machine, feature_count, features_of, heuristic, prior
from tvmfbnet.autotune.transfer import TransferSource

Array = npt.NDArray[np.float64]

# Trials before the first fit; until then a heuristic ranks candidates. Each refit waits for this share of new trials.
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
# A failed trial counts as 8x slower than the average.
_FAILURE_PENALTY = math.log(8.0)
# The transfer sources' weight in a prediction is their agreement with the target's own trials, halved at this many own
# trials. Simulated on logs of an AVX2 and an AVX-512 target: 200 or 400 costs more later than it gains at first.
_HALVED_AT = 100


class TrialCostModel:
    """Gradient-boosted trees on log(milliseconds per multiply-add), relative to what is known before any trial.

    Args:
        machine: what is known of the target.
        seed: of the trees' sampling.
        sources: trials of other targets to transfer from. Each gets trees of its own, fitted relative to that target's
            mean speed. Until there are enough own trials, these trees alone rank a kernel's candidates; then their
            weight shrinks as own trials come in, and at once where own trials disagree with them.

    ``fits`` counts the fits so far: predictions stay the same until it changes.
    """

    def __init__(self, machine: Machine, seed: int = 0, sources: Sequence[TransferSource] = ()) -> None:
        self.machine, self.seed = machine, seed
        self._shapes: list[KernelShape] = []
        self._rows: list[list[float]] = []
        self._logs: list[float] = []
        self._fitted = 0
        self.fits = 0
        self._trees: xgboost.Booster | None = None
        self._sources = [self._source(source) for source in sources]
        self._trust = 0.0

    def _source(self, source: TransferSource) -> xgboost.Booster:
        """Trees that predict a trial's log slowdown relative to the mean of that target."""
        logs = _filled(np.array([_log(trial.shape, trial.best_ms) for trial in source.trials]))
        rows = np.array([features_of(trial.shape, trial.knobs, source.machine) for trial in source.trials])
        return _fit(rows, logs - logs.mean(), self.seed)

    def add(self, shape: KernelShape, knobs: AnyKnobs, latency_ms: float | None) -> None:
        """Takes one trial; None where it failed."""
        self._shapes.append(shape)
        self._rows.append(self._row(shape, knobs))
        self._logs.append(_log(shape, latency_ms))

    def rows(self, shape: KernelShape, candidates: Sequence[AnyKnobs]) -> Array:
        """The input of :meth:`predict_ms` and :meth:`slowness`: (candidates, features and the prior).

        With transfer sources there is one more column, the mean prediction of the sources.
        """
        return self._with_sources(np.array([self._row(shape, knobs) for knobs in candidates], dtype=np.float64))

    def _row(self, shape: KernelShape, knobs: AnyKnobs) -> list[float]:
        return [*features_of(shape, knobs, self.machine), prior(shape, knobs, self.machine)]

    def _with_sources(self, rows: Array) -> Array:
        if not self._sources or not len(rows):
            return rows
        data = xgboost.DMatrix(rows[:, : feature_count(self.machine)])
        return np.column_stack([rows, np.mean([source.predict(data) for source in self._sources], axis=0)])

    def predict_ms(self, shape: KernelShape, rows: Array) -> Array | None:
        """Predicted milliseconds of each row of one kernel, (rows,); None while there are too few own trials to fit."""
        self._refit()
        if self._trees is None:
            return None
        return np.asarray(np.exp(self._predict(self._trees, rows)) * shape.products, dtype=np.float64)

    def slowness(self, rows: Array) -> Array | None:
        """Scores that rank the candidates of one kernel, fastest lowest, (rows,); not latencies.

        None while there are neither enough own trials nor transfer sources.
        """
        self._refit()
        if self._trees is not None:
            return self._predict(self._trees, rows)
        return np.asarray(rows[:, -1], dtype=np.float64) if self._sources else None

    def _predict(self, trees: xgboost.Booster, rows: Array) -> Array:
        """Log milliseconds per multiply-add.

        The kernel's overall level comes from own trials alone; the transfer sources only shift candidates within it.
        """
        place = feature_count(self.machine)  # of the prior
        logs = trees.predict(xgboost.DMatrix(rows[:, : place + 1])).astype(np.float64) + rows[:, place]
        if self._sources and self._trust > 0:
            transferred = rows[:, -1] - rows[:, -1].mean() + logs.mean()
            logs = (1.0 - self._trust) * logs + self._trust * transferred
        return np.asarray(logs, dtype=np.float64)

    def heuristic(self, shape: KernelShape, knobs: AnyKnobs) -> float:
        """A score that ranks candidates of one kernel before the first fit, lower is better."""
        return heuristic(shape, knobs, self.machine)

    def _refit(self) -> None:
        total = len(self._logs)
        if total < _FIRST_FIT or total - self._fitted < max(16, _REFIT_SHARE * self._fitted):
            return
        logs = np.array(self._logs)
        if np.isfinite(logs).sum() < _FIRST_FIT // 2:
            return
        rows = np.array(self._rows)
        self._trees, self._fitted = _fit(rows, _filled(logs - rows[:, -1]), self.seed), total
        if self._sources:
            self._weigh_sources(self._with_sources(rows)[:, -1], logs)
        self.fits += 1

    def _weigh_sources(self, predicted: Array, logs: Array) -> None:
        """Weights the transfer sources by how well they predict own trials, kernel by kernel."""
        valid = np.isfinite(logs)
        predicted, logs = predicted[valid], logs[valid]
        shapes = [shape for shape, ran in zip(self._shapes, valid, strict=True) if ran]
        numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        kernels = np.array([numbers[shape] for shape in shapes])
        self._trust = _agreement(predicted, logs, kernels) * _HALVED_AT / (_HALVED_AT + len(logs))


def _log(shape: KernelShape, latency_ms: float | None) -> float:
    """Log milliseconds per multiply-add; NaN where the trial failed."""
    return math.log(latency_ms / shape.products) if latency_ms is not None else math.nan


def _filled(logs: Array) -> Array:
    """The logs, with failed trials filled in as slow ones."""
    valid = np.isfinite(logs)
    return np.where(valid, logs, logs[valid].mean() + _FAILURE_PENALTY)


def _fit(rows: Array, logs: Array, seed: int) -> xgboost.Booster:
    parameters = {**_PARAMETERS, "base_score": float(logs.mean()), "seed": seed}
    return xgboost.train(parameters, xgboost.DMatrix(rows, logs), _TREES)


def _agreement(one: Array, other: Array, kernels: npt.NDArray[np.int64]) -> float:
    """Within-kernel correlation of two scores of the same trials, at least 0."""
    counts = np.bincount(kernels)
    within = [view - (np.bincount(kernels, view) / counts)[kernels] for view in (one, other)]
    size = math.sqrt(float((within[0] ** 2).sum() * (within[1] ** 2).sum()))
    return max(0.0, float((within[0] * within[1]).sum()) / size) if size > 0 else 0.0
