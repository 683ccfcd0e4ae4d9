"""Does the sum of the blocks predict the net? The evidence, and the correction that it supports.

A latency table predicts a net by a sum (equation 2 of the FBNet paper, arXiv 1812.03443), which assumes that blocks do
not influence each other. Whole nets timed on the device show how far that holds. For a systematic gap a correction is
fitted: a scale, a scale and an offset, or a scale for each resolution; cross-validation chooses the simplest kind that
no richer one clearly beats. A correction turns a table into another table whose sums are the corrected predictions, so
users of tables need not know about it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmfbnet.errors import LatencyError, StorageError
from tvmfbnet.files import read_json, read_model, write_json
from tvmfbnet.latency.cells import PREDICTED
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.measurement import NET, Measurement
from tvmfbnet.latency.origin import MEASURED, TimedSource, timed_latency
from tvmfbnet.latency.schemas import CorrectionRecord
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import NetPart, Space, content_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SCHEMA_VERSION = 1
MIN_NETS = 5

NONE, SCALE, SCALE_OFFSET, RESOLUTIONS = "none", "scale", "scale and offset", "scale for each resolution"
# From the simplest to the richest.
KINDS = (NONE, SCALE, SCALE_OFFSET, RESOLUTIONS)

_FOLDS = 10
# Regularisation of the scales of resolutions towards a common one, in squared relative errors.
_RIDGE = 0.0002
# A scale beyond these bounds means that something else is wrong.
_SCALES = (0.2, 5.0)


@dataclass(frozen=True)
class NetComparison:
    """A whole net: its arch, the table's sum and the latency as timed, both in milliseconds."""

    arch: str
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Agreement:
    """How predictions and measurements of nets agree; errors are relative to the measurement.

    Attributes:
        bias: mean of predicted / measured - 1.
        mean_error: the MAPE, mean of its absolute value.
        spearman: Spearman's rank correlation.
        kendall: Kendall's rank correlation.
        worst: the arch with the largest error.
        worst_error: that error, with its sign.
    """

    bias: float
    mean_error: float
    spearman: float
    kendall: float
    worst: str
    worst_error: float


@dataclass(frozen=True)
class Correction:
    """Turns a table's sums into nets' latencies.

    Attributes:
        kind: one of :data:`KINDS`.
        offset_ms: added once per net.
        scales: factor on each part by the height of its input; 0 stands for all other parts and the call overhead.
    """

    kind: str = NONE
    offset_ms: float = 0.0
    scales: Mapping[int, float] = field(default_factory=lambda: {0: 1.0})

    def scale(self, part: NetPart) -> float:
        """Factor on one part."""
        return self.scales.get(part.height, self.scales[0])

    def apply(self, table: LatencyTable) -> LatencyTable:
        """The table whose sums are the corrected predictions; its ``correction`` describes the correction."""
        cells = {
            part: replace(cell, latency_ms=cell.latency_ms * factor, spread_ms=cell.spread_ms * factor)
            for part, cell in table.cells.items()
            for factor in (self.scale(part),)
        }
        overhead = table.overhead_ms * self.scales[0] + self.offset_ms
        return replace(table, cells=cells, overhead_ms=overhead, correction=self.describe())

    def describe(self) -> str:
        """One phrase for people; empty if nothing is corrected."""
        if self.kind == NONE:
            return ""
        scales = ", ".join(
            f"x{scale:.3f}" + (f" at {height}" if height else "") for height, scale in sorted(self.scales.items())
        )
        return scales + (f", {self.offset_ms:+.4g} ms per net" if self.offset_ms else "")


@dataclass(frozen=True)
class Study:
    """The comparison of a table with timed nets.

    Attributes:
        space: its name.
        records: the nets.
        agreement: of the plain sums.
        corrected: of the corrected predictions. Each is cross-validated: neither the kind of correction nor its
            parameters were fitted to the net.
        corrected_ms: those predictions, one per record.
        errors: cross-validated MAPE of each kind of correction.
        correction: the chosen one, fitted to all nets.
        source: whether the nets were ``measured`` or ``simulated``, as the table's cells were.
    """

    space: str
    records: tuple[NetComparison, ...]
    agreement: Agreement
    corrected: Agreement
    corrected_ms: tuple[float, ...]
    errors: Mapping[str, float]
    correction: Correction
    source: TimedSource = MEASURED

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; a simulated latency is not called measured."""
        records = [
            {
                "arch": record.arch,
                "predicted_ms": record.predicted_ms,
                **timed_latency(self.source, record.measured_ms),
            }
            for record in self.records
        ]
        return {**asdict(self), "records": records, "n": len(self.records)}


def net_measurements(measurements: Iterable[Measurement], space: Space, context: Context) -> dict[str, Measurement]:
    """The most recent measurement of each whole net of ``space`` in ``context``, by arch.

    The space is identified by its content, not by its name. Nets compiled with other kernels than the most recent net
    (before the last tuning), or timed on another device model, are left out.
    """
    key = content_key(space)
    nets = [item for item in measurements if item.part.part == NET and item.space_key == key and item.arch]
    nets = [item for item in nets if context.admits(replace(item.context, protocol=context.protocol))]
    return {str(item.arch): item for item in nets if (item.trials, item.context) == (nets[-1].trials, nets[-1].context)}


def study(table: LatencyTable, space: Space, measured_ms: Mapping[str, float], seed: int = 0) -> Study:
    """Compares a table's sums with whole nets and fits the correction that they support.

    Args:
        table: has every part of the nets, measured or predicted; not corrected yet.
        space: the space of the archs.
        measured_ms: latency of whole nets by canonical arch string.
        seed: of the folds.

    Raises:
        LatencyError: fewer than 5 nets, parts are missing, or the table is a corrected one.
    """
    if table.correction:
        raise LatencyError("a corrected table cannot be validated; give the plain one")
    usable = {arch: ms for arch, ms in measured_ms.items() if ms > 0}
    if len(usable) < MIN_NETS:
        raise LatencyError(f"{len(usable)} whole net(s) were timed; at least {MIN_NETS} are needed to compare")
    archs, measured = list(usable), np.array(list(usable.values()))
    heights, sums = _sums(table, space, archs)
    plain = sums.sum(axis=1)
    errors = _held_out_errors(heights, sums, measured, seed)
    kind = _choose(errors)
    corrected = _held_out(None, heights, sums, measured, seed)
    return Study(
        space.name,
        tuple(NetComparison(arch, float(p), float(m)) for arch, p, m in zip(archs, plain, measured, strict=True)),
        _agreement(archs, plain, measured),
        _agreement(archs, corrected, measured),
        tuple(corrected.tolist()),
        {name: float(values.mean()) for name, values in errors.items()},
        _fit(kind, heights, sums, measured),
        table.basis,
    )


def save_study(study: Study, table: LatencyTable, path: Path) -> None:
    """Writes study and correction as JSON, atomically, with the checksum of the table that they belong to."""
    write_json(path, {"schema_version": SCHEMA_VERSION, "table": _checksum(table), **study.to_dict()})


def load_correction(path: Path, table: LatencyTable, remedy: str = "validate the target again") -> Correction | None:
    """The stored correction of ``table``; None if there is none or it was fitted to other cells.

    Args:
        path: the file.
        table: the table to correct.
        remedy: how to fit it again, for messages.

    Raises:
        StorageError: the file is unreadable or of another version.
    """
    if not path.exists():
        return None
    value = read_json(path)
    if isinstance(value, dict) and value.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise StorageError(f"{path} was written by another version of tvmfbnet; {remedy}")
    try:
        record = read_model(path, CorrectionRecord)
    except StorageError as error:
        raise StorageError(f"{error}; delete it, or {remedy}") from error
    saved = record.correction
    scales = {int(height): scale for height, scale in saved.scales.items()}
    return Correction(saved.kind, saved.offset_ms, scales) if record.table == _checksum(table) else None


def _checksum(table: LatencyTable) -> int:
    """A checksum of all cells but predictions: a correction is only valid for the cells that it was fitted to."""
    cells = sorted((part.name, cell.latency_ms) for part, cell in table.cells.items() if cell.source != PREDICTED)
    return zlib.crc32(json.dumps([table.overhead_ms, cells]).encode())


def _sums(table: LatencyTable, space: Space, archs: Sequence[str]) -> tuple[tuple[int, ...], Array]:
    """Heights, and the share of each height in every net's sum: (nets, heights); height 0 stands for all other parts.

    Only heights of searchable layers have a column of their own: archs differ there, so data can determine the scales.
    """
    heights = (0, *dict.fromkeys(layer.height for layer in space.layers))
    sums = np.zeros((len(archs), len(heights)))
    sums[:, 0] = table.overhead_ms
    for row, text in enumerate(archs):
        arch = parse_arch(text, space)
        for part in (*space.fixed_parts(), *(part for _, part in space.cells_of(arch))):
            sums[row, heights.index(part.height) if part.height in heights else 0] += table.lookup(part).latency_ms
    return heights, sums


def _fit(kind: str, heights: Sequence[int], sums: Array, measured: Array) -> Correction:
    """Least squares of relative errors within bounds."""
    if kind == NONE:
        return Correction()
    total = sums.sum(axis=1)
    if kind == SCALE:
        scale = float(_solve((total / measured)[:, None], np.ones(len(total)), [_SCALES])[0])
        return Correction(kind, 0.0, {0: scale})
    if kind == SCALE_OFFSET:
        # A negative offset, with a scale above 1, arises for nets of light blocks: these were timed among average
        # neighbours, which use more of the caches. The bound, half of the fastest net, is beyond that effect.
        columns = np.column_stack([total / measured, 1.0 / measured])
        least = -0.5 * float(measured.min())
        scale, offset = _solve(columns, np.ones(len(total)), [_SCALES, (least, np.inf)])
        return Correction(kind, float(offset), {0: float(scale)})
    common = _fit(SCALE, heights, sums, measured).scales[0]
    pull = np.sqrt(_RIDGE * len(total)) * np.eye(len(heights))
    columns = np.vstack([sums / measured[:, None], pull])
    wanted = np.concatenate([np.ones(len(total)), common * pull.sum(axis=1)])
    scales = _solve(columns, wanted, [_SCALES] * len(heights))
    return Correction(kind, 0.0, {height: float(scale) for height, scale in zip(heights, scales, strict=True)})


def _solve(columns: Array, wanted: Array, bounds: Sequence[tuple[float, float]]) -> Array:
    from scipy.optimize import lsq_linear  # takes a second to load, and only a new correction needs it

    low, high = zip(*bounds, strict=True)
    return np.asarray(lsq_linear(columns, wanted, bounds=(low, high)).x, dtype=np.float64)


def _predict(correction: Correction, heights: Sequence[int], sums: Array) -> Array:
    scales = np.array([correction.scales.get(height, correction.scales[0]) for height in heights])
    return np.asarray(sums @ scales + correction.offset_ms)


def _held_out(kind: str | None, heights: Sequence[int], sums: Array, measured: Array, seed: int) -> Array:
    """Cross-validated prediction of each net; without ``kind``, each fold's training nets choose it as well."""
    predicted = np.zeros(len(measured))
    order = np.random.default_rng(seed).permutation(len(measured))
    for held_out in np.array_split(order, min(_FOLDS, len(measured))):
        training = np.setdiff1d(order, held_out)
        fold_kind = kind or _choose(_held_out_errors(heights, sums[training], measured[training], seed))
        correction = _fit(fold_kind, heights, sums[training], measured[training])
        predicted[held_out] = _predict(correction, heights, sums[held_out])
    return predicted


def _held_out_errors(heights: Sequence[int], sums: Array, measured: Array, seed: int) -> dict[str, Array]:
    """Cross-validated relative error of each net, for each kind of correction."""
    return {kind: np.abs(_held_out(kind, heights, sums, measured, seed) / measured - 1.0) for kind in KINDS}


def _choose(errors: Mapping[str, Array]) -> str:
    """The simplest kind that no richer one beats by more than a standard error of the paired difference.

    For a scale, half of that suffices: it is a single parameter and generalises well.
    """
    chosen = NONE
    for kind in KINDS[1:]:
        gain = errors[chosen] - errors[kind]
        if gain.mean() > (0.5 if kind == SCALE else 1.0) * gain.std(ddof=1) / np.sqrt(len(gain)):
            chosen = kind
    return chosen


def _agreement(archs: Sequence[str], predicted: Array, measured: Array) -> Agreement:
    from scipy.stats import kendalltau, spearmanr

    error = predicted / measured - 1.0
    worst = int(np.abs(error).argmax())
    ranks = (float(rank(predicted, measured).statistic) for rank in (spearmanr, kendalltau))
    spearman, kendall = (value if np.isfinite(value) else 0.0 for value in ranks)
    mean = float(np.abs(error).mean())
    return Agreement(float(error.mean()), mean, spearman, kendall, archs[worst], float(error[worst]))
