"""Cross-validation of the regressor, beside plain xgboost on the same splits.

``random`` repeatedly holds out a fifth of the blocks: the case of a partly measured space. ``shape-out`` holds out all
blocks of one layer shape at a time: the case of a space with new layers. Only conv blocks are scored. Stem, head and
projecting skips (single convs, a handful per space) are training data; ``shape-out`` holds out the skip of the layer
shape as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import xgboost

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.latency.features import shapes
from tvmfbnet.latency.gaussian_process import shape_of
from tvmfbnet.latency.regressor import Z90, PartPredictor, usable
from tvmfbnet.space.blocks import SKIP
from tvmfbnet.space.space import BLOCK, NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Scheme = Literal["random", "shape-out"]
SCHEMES: tuple[Scheme, ...] = ("random", "shape-out")

# What `latency fit --json` shows.
FIGURES = ("mape", "within_10", "spearman", "coverage_90", "baseline_mape", "n")

_HELD_OUT = 0.2
_BASELINE_TREES = 100


def score(
    parts: Sequence[NetPart],
    latency_ms: Sequence[float] | Array,
    scheme: Scheme = "random",
    splits: int = 8,
    seed: int = 0,
    with_skips: bool = False,
    kernel_ms: Mapping[NetPart, float] | None = None,
    element_bytes: int = FLOAT32.bytes,
) -> dict[str, float | int]:
    """Accuracy figures over all held-out blocks of all splits.

    Args:
        parts: what was measured.
        latency_ms: (parts,) milliseconds.
        scheme: ``random`` or ``shape-out``.
        splits: random splits; layer shapes are all held out, once each.
        seed: of the splits, the regressor and the baseline.
        with_skips: whether projecting skips are held out and scored like blocks.
        kernel_ms: summed latency of the kernels of those parts that were tuned, timed alone; the others are predicted
            from shapes, and the baseline never gets it.
        element_bytes: of one activation or weight of the parts.

    Returns:
        ``mape`` (mean absolute relative error), ``within_10`` (share within 10 %), ``spearman`` (rank correlation),
        ``coverage_90`` (share inside the predicted 90 % interval), ``baseline_mape`` (plain xgboost on log latency),
        ``n`` (samples), ``held_out`` (predictions scored).

    Raises:
        LatencyError: as :meth:`LatencyRegressor.fit`.
    """
    kept, latency = usable(parts, latency_ms)
    rows = []
    for held_out, scored in _splits(kept, scheme, splits, seed, with_skips):
        training = np.setdiff1d(np.arange(len(kept)), held_out)
        learned, held_out_parts = [kept[index] for index in training], [kept[index] for index in scored]
        predictor = PartPredictor(learned, latency[training], kernel_ms, seed, element_bytes)
        predicted, spread = predictor.predict(held_out_parts)
        baseline = _plain_xgboost(learned, latency[training], held_out_parts, seed)
        rows.append(np.stack([latency[scored], predicted, spread, baseline]))
    return _figures(np.concatenate(rows, axis=1), len(kept))


def _splits(
    parts: Sequence[NetPart], scheme: Scheme, splits: int, seed: int, with_skips: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of the held-out parts of each split, and of those that are scored."""
    eligible = [
        index for index, part in enumerate(parts) if part.part == BLOCK and (with_skips or part.block != SKIP)
    ] or list(range(len(parts)))
    if scheme == "random":
        rng = np.random.default_rng(seed)
        for _ in range(splits):
            held_out = rng.permutation(eligible)[: max(1, round(_HELD_OUT * len(eligible)))]
            yield held_out, held_out
        return
    for shape in dict.fromkeys(shape_of(parts[index]) for index in eligible):
        held_out = np.array([index for index, part in enumerate(parts) if shape_of(part) == shape])
        yield held_out, np.intersect1d(held_out, eligible)


def _plain_xgboost(learned: Sequence[NetPart], latency: Array, held_out_parts: Sequence[NetPart], seed: int) -> Array:
    """The baseline: xgboost with its default settings, on the logarithm of the latency."""
    target = np.log(np.maximum(latency, 0.1 * float(latency[latency > 0].min())))
    data = xgboost.DMatrix(shapes(learned), target)
    trees = xgboost.train({"nthread": 1, "seed": seed}, data, _BASELINE_TREES)
    return np.asarray(np.exp(trees.predict(xgboost.DMatrix(shapes(held_out_parts))).astype(np.float64)))


def _figures(pooled: Array, samples: int) -> dict[str, float | int]:
    from scipy.stats import spearmanr  # takes a second to load

    latency, predicted, spread, baseline = pooled[:, pooled[0] > 0]
    error = np.abs(predicted / latency - 1.0)
    rank = float(spearmanr(latency, predicted).statistic) if len(latency) > 1 else 0.0
    return {
        "mape": float(error.mean()),
        "within_10": float((error <= 0.1).mean()),
        "spearman": rank if math.isfinite(rank) else 0.0,
        "coverage_90": float((np.abs(predicted - latency) <= Z90 * spread).mean()),
        "baseline_mape": float(np.abs(baseline / latency - 1.0).mean()),
        "n": samples,
        "held_out": len(latency),
    }
