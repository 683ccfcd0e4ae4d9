"""Predicts the latency of parts that were not measured, from those of the same target that were.

Two experts (:mod:`tvmfbnet.latency.ensemble`) are blended. How much either counts, and how wide the stated interval
must be to hold 90 % of the truth, is learned by cross-validation within the fit, apart for parts whose layer shape was
measured with other blocks and for parts whose layer shape is new: these are two different problems. The interval of one
prediction follows the Gaussian process's own uncertainty about that part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost

from tvmfbnet.errors import ArchError, LatencyError, StorageError
from tvmfbnet.files import read_json, read_model, write_json
from tvmfbnet.latency.ensemble import Members, fit_members
from tvmfbnet.latency.features import COORDINATES, LOADS, SHAPES
from tvmfbnet.latency.gaussian_process import shape_of
from tvmfbnet.latency.kernel_sums import KernelBase
from tvmfbnet.latency.roofline import COSTS
from tvmfbnet.latency.schemas import RegressorRecord
from tvmfbnet.latency.table import MEASURED, Cell, LatencyTable
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
# Fewer held-out samples than this say nothing of their own about blend and width.
_ENOUGH = 10
_WEIGHTS = np.linspace(0.0, 1.0, 11)
# An uneven blend must be better by up to this share to be preferred: the folds are few and choose by luck, too.
_EVENNESS = 0.1


@dataclass(frozen=True)
class Blend:
    """How the experts are joined: the trees' weight (0 to 1), and the factor on the process's standard deviation."""

    trees: float
    width: float


class LatencyRegressor:
    """Predicts latencies of one target. Fit before use; deterministic for one seed.

    Args:
        seed: of the trees and of the folds of the cross-validation within.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._members: Members | None = None
        self._known_shape = self._new_shape = Blend(0.5, 1.0)

    def fit(
        self,
        parts: Sequence[NetPart],
        latency_ms: Sequence[float] | Array,
        kernel_ms: Mapping[NetPart, float] | None = None,
    ) -> LatencyRegressor:
        """Fits to measured parts; identity skips among them are left out, they compute nothing.

        Args:
            parts: the parts.
            latency_ms: their latencies, call overhead taken off, one a part.
            kernel_ms: what tuning found that the kernels of each part take by themselves
                (:mod:`tvmfbnet.latency.kernel_sums`), of these parts and of all that will be predicted. Far better to
                predict from than shapes alone.

        Raises:
            LatencyError: fewer than 8 usable samples, or latencies that are no latencies, or kernels' times missing.
        """
        kept, latency = usable(parts, latency_ms)
        self._members = fit_members(kept, latency, self.seed, kernel_ms=kernel_ms)
        self._known_shape, self._new_shape = _blends(kept, latency, self.seed, self._members)
        return self

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array]:
        """Latency and its expected error (one standard deviation): two arrays (parts,), milliseconds.

        The interval of 1.645 deviations to both sides is made to hold the truth in 90 % of the cases. Identity skips
        get 0 in both. Raises LatencyError before :meth:`fit`, and for parts whose kernels' times it would need.
        """
        members = self._fitted()
        latency, spread = np.zeros(len(parts)), np.zeros(len(parts))
        computing = [index for index, part in enumerate(parts) if not part.is_identity]
        if computing:
            asked = [parts[index] for index in computing]
            known = {shape_of(part) for part in members.process.parts}
            trees, process, deviation = members.predict(asked)
            blends = [self._known_shape if shape_of(part) in known else self._new_shape for part in asked]
            weight = np.array([blend.trees for blend in blends])
            latency[computing] = np.exp(weight * trees + (1.0 - weight) * process)
            spread[computing] = latency[computing] * deviation * np.array([blend.width for blend in blends])
        return latency, spread

    def save(self, path: Path) -> None:
        """Writes the fitted model as JSON, atomically."""
        blends = {"known_shape": vars(self._known_shape), "new_shape": vars(self._new_shape)}
        members = self._fitted().to_dict()
        write_json(path, {"schema_version": SCHEMA_VERSION, **_FORM, "seed": self.seed, **blends, "members": members})

    @classmethod
    def load(cls, path: Path) -> LatencyRegressor:
        """Reads a model that :meth:`save` wrote; :class:`StorageError` where it is unreadable or of another form."""
        value = read_json(path)
        form = {name: value.get(name) for name in ("schema_version", *_FORM)} if isinstance(value, dict) else {}
        if form and form != {"schema_version": SCHEMA_VERSION, **_FORM}:
            raise StorageError(f"{path} was written by another version of tvmfbnet; fit the regressor again")
        read_model(path, RegressorRecord)
        try:
            regressor = cls(int(value["seed"]))
            regressor._members = Members.from_dict(value["members"])
            regressor._known_shape, regressor._new_shape = (
                Blend(float(value[name]["trees"]), float(value[name]["width"])) for name in ("known_shape", "new_shape")
            )
        except (LookupError, TypeError, ValueError, ArithmeticError, ArchError, xgboost.core.XGBoostError) as error:
            raise StorageError(f"{path} is no latency regressor ({type(error).__name__}); fit it again") from error
        return regressor

    def _fitted(self) -> Members:
        if self._members is None:
            raise LatencyError("the latency regressor has not been fitted yet")
        return self._members


# What a saved model was made for; a model of other features must not be used.
_FORM: dict[str, Any] = {
    "costs": list(COSTS),
    "shapes": list(SHAPES),
    "coordinates": list(COORDINATES),
    "loads": list(LOADS),
}


def complete(table: LatencyTable, parts: Sequence[NetPart], seed: int = 0) -> LatencyTable:
    """Fills the cells of ``parts`` that a table lacks with predictions learned from its measured cells.

    Those whose kernels were tuned are predicted from the times of their kernels, the others from their shapes.

    Raises:
        LatencyError: parts are missing and there are too few measured cells to learn from; lists the missing ones.
    """
    if not table.missing(parts):
        return table
    known = {part: cell for part, cell in table.cells.items() if cell.source == MEASURED and not part.is_identity}
    if len(known) < MIN_SAMPLES:
        table.require(parts)
    tuned = {part: cell for part, cell in known.items() if part in table.kernel_ms}
    filled = table
    with step("predicting the latency of blocks that were not measured", patience=2.0):
        if len(tuned) >= MIN_SAMPLES:
            also = [part for part in table.missing(parts) if part in table.kernel_ms]
            filled = _filled(table, tuned, also, seed, table.kernel_ms)
        return _filled(filled, known, filled.missing(parts), seed)


def _filled(
    table: LatencyTable,
    known: Mapping[NetPart, Cell],
    parts: Sequence[NetPart],
    seed: int,
    kernel_ms: Mapping[NetPart, float] | None = None,
) -> LatencyTable:
    if not parts:
        return table
    latency_ms = [cell.latency_ms for cell in known.values()]
    return table.fill(LatencyRegressor(seed).fit(list(known), latency_ms, kernel_ms), parts)


def usable(parts: Sequence[NetPart], latency_ms: Sequence[float] | Array) -> tuple[list[NetPart], Array]:
    """The samples that a fit can use; :class:`LatencyError` where they are too few or no latencies."""
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


def _blends(parts: Sequence[NetPart], latency: Array, seed: int, whole: Members) -> tuple[Blend, Blend]:
    """Blend for parts of known and of new layer shapes, from samples that folds left out."""
    kernel_ms = whole.base.kernel_ms if isinstance(whole.base, KernelBase) else None
    rows: list[Array] = []
    for rest, held in _folds(parts, seed):
        known_parts = [parts[index] for index in rest]
        members = fit_members(known_parts, latency[rest], seed, whole, forests=1, kernel_ms=kernel_ms)
        known = {shape_of(parts[index]) for index in rest}
        is_known = [shape_of(parts[index]) in known for index in held]
        rows.append(np.stack([latency[held], *members.predict([parts[index] for index in held]), is_known]))
    pooled = np.concatenate(rows, axis=1)
    pooled = pooled[:, pooled[0] > 0]
    chosen = [pooled[:, pooled[4] == which] for which in (1, 0)]
    known_shape, new_shape = (_blend(*(some if some.shape[1] >= _ENOUGH else pooled)[:4]) for some in chosen)
    return known_shape, new_shape


def _folds(parts: Sequence[NetPart], seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rest and held-out indices: random fifths of the blocks, then whole layer shapes."""
    blocks = np.array([index for index, part in enumerate(parts) if part.part == BLOCK], dtype=np.int64)
    if len(blocks) < MIN_SAMPLES:
        blocks = np.arange(len(parts))
    rng = np.random.default_rng(seed)
    found = np.array_split(rng.permutation(blocks), min(_FOLDS, len(blocks)))
    names = list(dict.fromkeys(shape_of(parts[index]) for index in blocks))
    if len(names) > 2:
        for group in np.array_split(rng.permutation(len(names)), min(_SHAPE_FOLDS, len(names))):
            shapes_out = {names[number] for number in group}
            found.append(np.array([index for index in blocks if shape_of(parts[index]) in shapes_out]))
    for held in found:
        rest = np.setdiff1d(np.arange(len(parts)), held)
        if len(rest) > 1:
            yield rest, held


def _blend(latency: Array, trees: Array, process: Array, deviation: Array) -> Blend:
    """The trees' weight of least mean relative error, and the width whose 90 % interval holds 90 % of the samples."""

    def errors(weight: float) -> Array:
        return np.abs(latency / np.exp(weight * trees + (1.0 - weight) * process) - 1.0)

    weight = min(_WEIGHTS, key=lambda some: float(errors(some).mean()) * (1.0 + _EVENNESS * (2.0 * some - 1.0) ** 2))
    ratios = np.sort(errors(weight) / deviation)
    rank = min(len(ratios), math.ceil(0.9 * (len(ratios) + 1)))  # the conformal quantile: honest for few samples
    return Blend(float(weight), float(ratios[rank - 1]) / Z90)
