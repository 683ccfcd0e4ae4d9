"""Predicts how fast a templated kernel will be from its shape and knobs; learns from every trial, over all kernels.

What it learns of one kernel serves the next: after a few kernels the first round of a new one already holds good
candidates. A new run learns from the log of earlier ones, and, where the user names other targets, from theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xgboost

from tvmfbnet.autotune.knobs import (
    FEATURES,
    KernelShape,
    Knobs,
    Registers,
    accumulators,
    features,
    loads_per_product,
    parallel_share,
)
from tvmfbnet.autotune.transfer import Lesson

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
# Other targets' say in a prediction is their agreement with own trials, halved when there are so many of these. Played
# through on logs of an AVX2 and an AVX-512 target: 200 or 400 costs more later than it gains at first.
_HALVED_AT = 100


class Ranking:
    """Gradient-boosted trees on log(milliseconds a product).

    Args:
        registers: of the target.
        seed: of the trees' sampling.
        lessons: trials of other targets. Trees of their own learn from each, relative to that target's speed: until
            there are enough own trials they say in which order to try a kernel's candidates; later they have a share
            in that, which shrinks as own trials come in, at once where these disagree.

    ``fits`` counts how often the trees were fitted: predictions stay the same until it changes.
    """

    def __init__(self, registers: Registers, seed: int = 0, lessons: Sequence[Lesson] = ()) -> None:
        self.registers, self.seed = registers, seed
        self._shapes: list[KernelShape] = []
        self._rows: list[list[float]] = []
        self._logs: list[float] = []
        self._fitted = 0
        self.fits = 0
        self._trees: xgboost.Booster | None = None
        self._teachers = [self._teacher(lesson) for lesson in lessons]
        self._trust = 0.0

    def _teacher(self, lesson: Lesson) -> xgboost.Booster:
        """Trees on how much slower than that target's mean a trial was, as a logarithm."""
        logs = _filled(np.array([_log(trial.shape, trial.best_ms) for trial in lesson.trials]))
        rows = np.array([features(trial.shape, trial.knobs, lesson.registers) for trial in lesson.trials])
        return _fit(rows, logs - logs.mean(), self.seed)

    def add(self, shape: KernelShape, knobs: Knobs, latency_ms: float | None) -> None:
        """Takes one trial; None where it failed."""
        self._shapes.append(shape)
        self._rows.append(features(shape, knobs, self.registers))
        self._logs.append(_log(shape, latency_ms))

    def rows(self, shape: KernelShape, candidates: Sequence[Knobs]) -> Array:
        """What :meth:`predict_ms` and :meth:`slowness` take: (candidates, features, and one more with lessons).

        The last column is what the teachers think.
        """
        return self._taught(
            np.array([features(shape, knobs, self.registers) for knobs in candidates], dtype=np.float64)
        )

    def _taught(self, rows: Array) -> Array:
        if not self._teachers or not len(rows):
            return rows
        data = xgboost.DMatrix(rows)
        return np.column_stack([rows, np.mean([teacher.predict(data) for teacher in self._teachers], axis=0)])

    def predict_ms(self, shape: KernelShape, rows: Array) -> Array | None:
        """Expected milliseconds of each row of one kernel, (rows,); None while own trials are too few to learn from."""
        self._refit()
        if self._trees is None:
            return None
        return np.asarray(np.exp(self._predict(self._trees, rows)) * shape.products, dtype=np.float64)

    def slowness(self, rows: Array) -> Array | None:
        """Says in which order to try candidates of one kernel, the lowest first, (rows,); no latency.

        None while neither own trials nor lessons can tell.
        """
        self._refit()
        if self._trees is not None:
            return self._predict(self._trees, rows)
        return np.asarray(rows[:, -1], dtype=np.float64) if self._teachers else None

    def _predict(self, trees: xgboost.Booster, rows: Array) -> Array:
        """Logarithms of milliseconds a product.

        How fast the kernel is as a whole only own trials say; in how its candidates differ the teachers have a share.
        """
        count = len(FEATURES)
        logs = trees.predict(xgboost.DMatrix(rows[:, :count])).astype(np.float64)
        if self._teachers and self._trust > 0:
            taught = rows[:, count] - rows[:, count].mean() + logs.mean()
            logs = (1.0 - self._trust) * logs + self._trust * taught
        return np.asarray(logs, dtype=np.float64)

    def thumb(self, shape: KernelShape, knobs: Knobs) -> float:
        """A rule of thumb, lower is better: few loads a multiply-add, sums enough to hide its delay, threads busy."""
        sums = accumulators(knobs, self.registers)
        hidden = min(1.0, sums / 8)
        serial = loads_per_product(shape, knobs, self.registers) + 0.5 * (1.0 - hidden)
        return serial * parallel_share(shape, knobs, self.registers)

    def _refit(self) -> None:
        total = len(self._logs)
        if total < _FIRST_FIT or total - self._fitted < max(16, _REFIT_SHARE * self._fitted):
            return
        logs = np.array(self._logs)
        if np.isfinite(logs).sum() < _FIRST_FIT // 2:
            return
        rows = np.array(self._rows)
        self._trees, self._fitted = _fit(rows, _filled(logs), self.seed), total
        if self._teachers:
            self._weigh_teachers(self._taught(rows)[:, -1], logs)
        self.fits += 1

    def _weigh_teachers(self, taught: Array, logs: Array) -> None:
        """Compares what the teachers think of own trials with what came of these, kernel by kernel."""
        valid = np.isfinite(logs)
        taught, logs = taught[valid], logs[valid]
        shapes = [shape for shape, ran in zip(self._shapes, valid, strict=True) if ran]
        numbers = {shape: number for number, shape in enumerate(dict.fromkeys(shapes))}
        kernels = np.array([numbers[shape] for shape in shapes])
        self._trust = _agreement(taught, logs, kernels) * _HALVED_AT / (_HALVED_AT + len(logs))


def _log(shape: KernelShape, latency_ms: float | None) -> float:
    """Logarithm of milliseconds a product; not a number where a trial failed."""
    return math.log(latency_ms / shape.products) if latency_ms is not None else math.nan


def _filled(logs: Array) -> Array:
    """Failed trials as trials that were slow."""
    valid = np.isfinite(logs)
    return np.where(valid, logs, logs[valid].mean() + _FAILED)


def _fit(rows: Array, logs: Array, seed: int) -> xgboost.Booster:
    parameters = {**_PARAMETERS, "base_score": float(logs.mean()), "seed": seed}
    return xgboost.train(parameters, xgboost.DMatrix(rows, logs), _TREES)


def _agreement(one: Array, other: Array, kernels: npt.NDArray[np.int64]) -> float:
    """Correlation of two views of the same trials within their kernels; 0 where they disagree."""
    counts = np.bincount(kernels)
    within = [view - (np.bincount(kernels, view) / counts)[kernels] for view in (one, other)]
    size = math.sqrt(float((within[0] ** 2).sum() * (within[1] ** 2).sum()))
    return max(0.0, float((within[0] * within[1]).sum()) / size) if size > 0 else 0.0
