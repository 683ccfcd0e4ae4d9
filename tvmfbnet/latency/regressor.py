"""Predicts the latency of unmeasured parts from measured parts of the same target.

The prediction is a weighted mean of two models (:mod:`tvmfbnet.latency.ensemble`). Their weights, and the width of an
interval with 90 % coverage, are learned by cross-validation within the fit, separately for parts whose layer shape was
measured with other blocks and for parts whose layer shape is new: these are different problems. The interval of a
prediction scales with the Gaussian process's own uncertainty about that part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.errors import ArchError, LatencyError, StorageError
from tvmfbnet.files import read_json, read_model, write_json
from tvmfbnet.latency.cells import PREDICTED
from tvmfbnet.latency.ensemble import Ensemble, fit_ensemble
from tvmfbnet.latency.features import COORDINATES, LOADS, SHAPES
from tvmfbnet.latency.gaussian_process import shape_of
from tvmfbnet.latency.kernel_sums import KernelBase
from tvmfbnet.latency.origin import MEASURED, TimedSource
from tvmfbnet.latency.roofline import COSTS
from tvmfbnet.latency.schemas import RegressorRecord
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import step
from tvmfbnet.space.space import BLOCK, NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SCHEMA_VERSION = 3
MIN_SAMPLES = 8

# Two-sided 90 % of a normal distribution, in standard deviations.
Z90 = 1.645
_FOLDS = 5
_SHAPE_FOLDS = 12
# With fewer held-out samples of one kind, weights and width are learned from all of them.
_ENOUGH = 10
_WEIGHTS = np.linspace(0.0, 1.0, 11)
# Uneven weights must be better by up to this share to be preferred, as few folds also choose by chance.
_EVENNESS = 0.1


@dataclass(frozen=True)
class EnsembleWeights:
    """How the two models are combined: the trees' weight (0 to 1), and a factor on the process's standard deviation."""

    trees: float
    width: float


class LatencyRegressor:
    """Predicts latencies of one target. Fit before use; deterministic for one seed.

    Args:
        seed: of the trees and of the cross-validation folds.
        element_bytes: of one activation or weight of the parts.
        labels: what it learns from: ``measured`` latencies, or ``simulated`` ones; its file says the latter.
    """

    def __init__(self, seed: int = 0, element_bytes: int = FLOAT32.bytes, labels: TimedSource = MEASURED) -> None:
        self.seed, self._element_bytes, self.labels = seed, element_bytes, labels
        self._ensemble: Ensemble | None = None
        self._known_shape = self._new_shape = EnsembleWeights(0.5, 1.0)

    def fit(
        self,
        parts: Sequence[NetPart],
        latency_ms: Sequence[float] | Array,
        kernel_ms: Mapping[NetPart, float] | None = None,
    ) -> LatencyRegressor:
        """Fits to measured parts; identity skips compute nothing and are left out.

        Args:
            parts: the parts.
            latency_ms: one latency per part, call overhead subtracted.
            kernel_ms: summed latency of each part's kernels as tuning timed them
                (:mod:`tvmfbnet.latency.kernel_sums`), for these parts and all that will be predicted. A far better
                predictor than shapes alone.

        Raises:
            LatencyError: fewer than 8 usable samples, invalid latencies, or kernel times missing.
        """
        kept, latency = usable(parts, latency_ms)
        self._ensemble = fit_ensemble(kept, latency, self.seed, kernel_ms=kernel_ms, element_bytes=self._element_bytes)
        self._known_shape, self._new_shape = _learn_weights(kept, latency, self.seed, self._ensemble)
        return self

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array]:
        """Latency and its expected error (one standard deviation): two arrays (parts,), milliseconds.

        The interval of 1.645 deviations on both sides is calibrated to 90 % coverage. Identity skips get 0 in both.
        Raises LatencyError before :meth:`fit`, and for parts whose kernel times it would need.
        """
        ensemble = self._fitted()
        latency, spread = np.zeros(len(parts)), np.zeros(len(parts))
        computing = [index for index, part in enumerate(parts) if not part.is_identity]
        if computing:
            kept = [parts[index] for index in computing]
            measured_shapes = {shape_of(part) for part in ensemble.process.parts}
            trees, process, deviation = ensemble.predict(kept)
            weights = [self._known_shape if shape_of(part) in measured_shapes else self._new_shape for part in kept]
            tree_weight = np.array([each.trees for each in weights])
            latency[computing] = np.exp(tree_weight * trees + (1.0 - tree_weight) * process)
            spread[computing] = latency[computing] * deviation * np.array([each.width for each in weights])
        return latency, spread

    def save(self, path: Path) -> None:
        """Writes the fitted model as JSON, atomically."""
        weights = {"known_shape": vars(self._known_shape), "new_shape": vars(self._new_shape)}
        ensemble = self._fitted().to_dict()
        labels = {} if self.labels == MEASURED else {"labels": self.labels}
        write_json(
            path,
            {"schema_version": SCHEMA_VERSION, **labels, **_FORM, "seed": self.seed, **weights, "members": ensemble},
        )

    @classmethod
    def load(cls, path: Path) -> LatencyRegressor:
        """Reads a model that :meth:`save` wrote; :class:`StorageError` if it is unreadable or of another form."""
        value = read_json(path)
        form = {name: value.get(name) for name in ("schema_version", *_FORM)} if isinstance(value, dict) else {}
        if form and form != {"schema_version": SCHEMA_VERSION, **_FORM}:
            raise StorageError(f"{path} was written by another version of tvmfbnet; fit the regressor again")
        labels = read_model(path, RegressorRecord).labels
        try:
            regressor = cls(int(value["seed"]), labels=labels)
            regressor._ensemble = Ensemble.from_dict(value["members"])
            regressor._known_shape, regressor._new_shape = (
                EnsembleWeights(float(value[name]["trees"]), float(value[name]["width"]))
                for name in ("known_shape", "new_shape")
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, ArchError, xgboost.core.XGBoostError) as error:
            raise StorageError(f"{path} is not a latency regressor ({type(error).__name__}); fit it again") from error
        return regressor

    def _fitted(self) -> Ensemble:
        if self._ensemble is None:
            raise LatencyError("the latency regressor has not been fitted yet")
        return self._ensemble


# The features that a saved model was fitted to; a model of other features must not be used.
_FORM: dict[str, Any] = {
    "costs": list(COSTS),
    "shapes": list(SHAPES),
    "coordinates": list(COORDINATES),
    "loads": list(LOADS),
}


class PartPredictor:
    """Predicts any part of one target: from its kernel times where tuning has them, from its shape otherwise.

    A part's kernel times predict it far better than its shape, but not all parts were tuned. So there are two
    regressors, each fitted when it is first needed: one to the measured parts with kernel times, one to all.

    Args:
        parts: what was measured.
        latency_ms: one latency per part, call overhead subtracted.
        kernel_ms: summed latency of the kernels of tuned parts, measured or not; the others' shapes must do, and so
            must all shapes where fewer than 8 measured parts were tuned.
        seed: of the regressors.
        element_bytes: of one activation or weight of the parts.

    Raises:
        LatencyError: as :meth:`LatencyRegressor.fit`.
    """

    def __init__(
        self,
        parts: Sequence[NetPart],
        latency_ms: Sequence[float] | Array,
        kernel_ms: Mapping[NetPart, float] | None = None,
        seed: int = 0,
        element_bytes: int = FLOAT32.bytes,
    ) -> None:
        self._element_bytes = element_bytes
        self._parts, self._latency_ms = usable(parts, latency_ms)
        self._kernel_ms = kernel_ms or {}
        self._tuned = [index for index, part in enumerate(self._parts) if part in self._kernel_ms]
        self.seed = seed

    @property
    def tuned(self) -> int:
        """How many measured parts have kernel times that predictions use; 0 where they are too few to learn from."""
        return len(self._tuned) if len(self._tuned) >= MIN_SAMPLES else 0

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array]:
        """Latency and its expected error (one standard deviation): two arrays (parts,), milliseconds."""
        latency, spread = np.zeros(len(parts)), np.zeros(len(parts))
        by_kernels = [index for index, part in enumerate(parts) if self.tuned and part in self._kernel_ms]
        by_shapes = sorted({*range(len(parts))} - {*by_kernels})
        if by_kernels:
            latency[by_kernels], spread[by_kernels] = self._by_kernels.predict([parts[index] for index in by_kernels])
        if by_shapes:
            latency[by_shapes], spread[by_shapes] = self._by_shapes.predict([parts[index] for index in by_shapes])
        return latency, spread

    @cached_property
    def _by_kernels(self) -> LatencyRegressor:
        parts = [self._parts[index] for index in self._tuned]
        return LatencyRegressor(self.seed, self._element_bytes).fit(
            parts, self._latency_ms[self._tuned], self._kernel_ms
        )

    @cached_property
    def _by_shapes(self) -> LatencyRegressor:
        return LatencyRegressor(self.seed, self._element_bytes).fit(self._parts, self._latency_ms)


def _samples(table: LatencyTable) -> dict[NetPart, float]:
    """The latencies of a table that predictions learn from: all that are not predictions themselves."""
    return {
        part: cell.latency_ms for part, cell in table.cells.items() if cell.source != PREDICTED and not part.is_identity
    }


def can_complete(table: LatencyTable) -> bool:
    """Whether a table has enough cells to predict others from."""
    latencies_ms = _samples(table).values()
    return len(latencies_ms) >= MIN_SAMPLES and any(ms > 0 for ms in latencies_ms)


def complete(table: LatencyTable, parts: Sequence[NetPart], seed: int = 0) -> LatencyTable:
    """Fills the cells of ``parts`` that a table lacks with predictions from its other cells (:class:`PartPredictor`).

    Raises:
        LatencyError: parts are missing and there are too few cells to learn from; lists the missing parts.
    """
    if not table.missing(parts):
        return table
    samples = _samples(table)
    if len(samples) < MIN_SAMPLES:
        table.require(parts)
    with step("predicting the latency of blocks that were not measured", patience=2.0):
        size = table.data_type.bytes
        return table.fill(PartPredictor(list(samples), list(samples.values()), table.kernel_ms, seed, size), parts)


def usable(parts: Sequence[NetPart], latency_ms: Sequence[float] | Array) -> tuple[list[NetPart], Array]:
    """The samples that a fit can use; :class:`LatencyError` if there are too few or latencies are invalid."""
    latency = np.asarray(latency_ms, dtype=np.float64)
    if latency.shape != (len(parts),):
        raise LatencyError(f"{len(parts)} parts came with latencies of shape {latency.shape}; one per part is needed")
    if not np.isfinite(latency).all() or (latency < 0).any():
        raise LatencyError("latencies must be finite and not negative")
    keep = [index for index, part in enumerate(parts) if not part.is_identity]
    if len(keep) < MIN_SAMPLES or not (latency[keep] > 0).any():
        raise LatencyError(
            f"the latency regressor needs at least {MIN_SAMPLES} measured parts, there are {len(keep)}; measure more"
        )
    return [parts[index] for index in keep], latency[keep]


def _learn_weights(
    parts: Sequence[NetPart], latency: Array, seed: int, whole: Ensemble
) -> tuple[EnsembleWeights, EnsembleWeights]:
    """Weights for parts of known and of new layer shapes, from the held-out samples of all folds."""
    kernel_ms = whole.base.kernel_ms if isinstance(whole.base, KernelBase) else None
    size = whole.physical.element_bytes
    rows: list[Array] = []
    for training, held_out in _folds(parts, seed):
        training_parts = [parts[index] for index in training]
        ensemble = fit_ensemble(training_parts, latency[training], seed, whole, 1, kernel_ms, size)
        training_shapes = {shape_of(part) for part in training_parts}
        is_known = [shape_of(parts[index]) in training_shapes for index in held_out]
        rows.append(np.stack([latency[held_out], *ensemble.predict([parts[index] for index in held_out]), is_known]))
    pooled = np.concatenate(rows, axis=1)
    pooled = pooled[:, pooled[0] > 0]
    by_kind = [pooled[:, pooled[4] == is_known] for is_known in (1, 0)]
    known_shape, new_shape = (
        _weights_of(*(samples if samples.shape[1] >= _ENOUGH else pooled)[:4]) for samples in by_kind
    )
    return known_shape, new_shape


def _folds(parts: Sequence[NetPart], seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Training and held-out indices: random fifths of the blocks, then whole layer shapes."""
    blocks = np.array([index for index, part in enumerate(parts) if part.part == BLOCK], dtype=np.int64)
    if len(blocks) < MIN_SAMPLES:
        blocks = np.arange(len(parts))
    rng = np.random.default_rng(seed)
    folds = np.array_split(rng.permutation(blocks), min(_FOLDS, len(blocks)))
    names = list(dict.fromkeys(shape_of(parts[index]) for index in blocks))
    if len(names) > 2:
        for group in np.array_split(rng.permutation(len(names)), min(_SHAPE_FOLDS, len(names))):
            shapes_out = {names[number] for number in group}
            folds.append(np.array([index for index in blocks if shape_of(parts[index]) in shapes_out]))
    for held_out in folds:
        training = np.setdiff1d(np.arange(len(parts)), held_out)
        if len(training) > 1:
            yield training, held_out


def _weights_of(latency: Array, trees: Array, process: Array, deviation: Array) -> EnsembleWeights:
    """The trees' weight of least MAPE, and the width whose 90 % interval covers 90 % of the samples."""

    def errors(weight: float) -> Array:
        return np.abs(latency / np.exp(weight * trees + (1.0 - weight) * process) - 1.0)

    def penalised_mape(weight: float) -> float:
        return float(errors(weight).mean()) * (1.0 + _EVENNESS * (2.0 * weight - 1.0) ** 2)

    weight = min(_WEIGHTS, key=penalised_mape)
    ratios = np.sort(errors(weight) / deviation)
    rank = min(len(ratios), math.ceil(0.9 * (len(ratios) + 1)))  # the conformal quantile: valid for few samples
    return EnsembleWeights(float(weight), float(ratios[rank - 1]) / Z90)
