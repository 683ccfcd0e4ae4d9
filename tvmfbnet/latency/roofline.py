"""The physical base of the latency model, a roofline: the cost of arithmetic, memory traffic and kernel launches.

A conv is bound by its arithmetic or by its memory traffic, with a smooth maximum of the two. The cost per MAC rises the
worse the conv's shape suits the device: a smooth function of its channels and pixels, and of the padding of channels to
full vectors. Kernel launches may overlap with that work, so a part takes the longer of the two, as on a GPU, or their
sum, as on a CPU; the overlap is fitted as well. All costs are maximum a posteriori estimates under weak priors, robust
against outlier kernels. The base is simple, but it extrapolates to blocks and layer shapes that were never measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import least_squares

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.latency.features import KINDS, ConvTable, conv_table
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Costs by name: (the quantity its prior is centred on, offset from that, the prior's width), all in logarithms. The
# quantities are the median cost per MAC and per byte moved, and the median latency of a part, on this target.
_MAC, _BYTE, _PART, _ONE = "ms per MAC", "ms per byte", "ms per part", "factor"
_BEND, _CURVE = 0.25, 0.0625
_PRIORS: dict[str, tuple[str, float, float]] = {
    "pointwise": (_MAC, -0.3, 1.0),
    "depthwise": (_MAC, 1.5, 1.0),
    # Factors on the cost of the most similar kind, so that work of a kind that was never measured is not free.
    "grouped": (_ONE, 0.3, 0.7),
    "large_depthwise": (_ONE, 0.0, 0.7),
    "dense": (_ONE, 0.3, 1.0),
    "linear": (_ONE, 0.6, 1.0),
    "pool": (_MAC, 1.0, 3.0),
    # How the cost of a MAC of a pointwise conv bends with channels in (k), channels out (n), pixels (m) and stride.
    **{f"pointwise_{name}": (_ONE, 0.0, _BEND) for name in ("k", "n", "m", "stride")},
    **{f"pointwise_{name}": (_ONE, 0.0, _CURVE) for name in ("kk", "nn", "mm", "kn", "km", "nm")},
    **{f"depthwise_{name}": (_ONE, 0.0, _BEND) for name in ("n", "m", "stride")},
    "padded_32_bytes": (_ONE, 0.0, 0.5),
    "padded_64_bytes": (_ONE, 0.0, 0.5),
    "pointwise_bytes": (_BYTE, -1.5, 1.0),
    "depthwise_bytes": (_BYTE, -1.5, 1.0),
    "shuffled_bytes": (_BYTE, -1.5, 1.0),
    "residual_bytes": (_BYTE, -1.5, 1.0),
    "weight_bytes": (_MAC, -float(np.log(4.0)), 1.0),  # four bytes of weights cost about as much as a MAC
    "start": (_PART, -3.0, 1.5),
    "start_shuffle": (_PART, -3.0, 1.5),
    "constant": (_PART, -3.0, 1.5),
    "overlap": (_ONE, 1.0, 1.0),
}
# Kinds whose cost is a factor on that of another kind.
_LIKE = {"grouped": "pointwise", "dense": "pointwise", "linear": "pointwise", "large_depthwise": "depthwise"}
COSTS = tuple(_PRIORS)
_BENDS_POINTWISE = [COSTS.index(f"pointwise_{name}") for name in ("k", "n", "m", "stride")]
_CURVES_POINTWISE = [COSTS.index(f"pointwise_{name}") for name in ("kk", "nn", "mm", "kn", "km", "nm")]
_BENDS_DEPTHWISE = [COSTS.index(f"depthwise_{name}") for name in ("n", "m", "stride")]
_PADDED = [COSTS.index(name) for name in ("padded_32_bytes", "padded_64_bytes")]
_VECTOR_BYTES = np.array([32.0, 64.0])
_MOVED = ("pointwise", "depthwise", "shuffled", "residual", "weight")
_TRAFFIC = [COSTS.index(f"{name}_bytes") for name in _MOVED]
_STARTS = [COSTS.index(name) for name in ("start", "start_shuffle")]
_CONSTANT = COSTS.index("constant")

# Typical error of the base, in logarithms, and the multiple of it beyond which a sample loses weight.
_ERROR = 0.05
_OUTLIER = 0.7
_EVALUATIONS = 60
# A typical processor, before any measurement of the target.
_TYPICAL_MAC_MS, _TYPICAL_PART_MS = 1e-7, 0.05
# Bends are fitted within the range of measured shapes; they extrapolate for one doubling and are constant beyond.
_BEYOND = float(np.log(2.0))


def _costs_of_kinds() -> Array:
    """Which costs (logarithms) add up to the cost per MAC of each kind: (len(KINDS), len(COSTS))."""
    summands = np.zeros((len(KINDS), len(COSTS)))
    for row, kind in enumerate(KINDS):
        summands[row, COSTS.index(kind)] = 1.0
        if kind in _LIKE:
            summands[row, COSTS.index(_LIKE[kind])] = 1.0
    return summands


_COSTS_OF_KINDS = _costs_of_kinds()


@dataclass(frozen=True)
class Base:
    """The base of one target.

    Attributes:
        costs: (len(COSTS),) logarithms, in the order of ``COSTS``; ms per unit, or factors.
        lowest: (2, 4) least log of channels in, channels out, pixels and stride among the measured pointwise convs and
            depthwise convs.
        highest: (2, 4) greatest.
        element_bytes: of one activation or weight.
    """

    costs: Array
    lowest: Array
    highest: Array
    element_bytes: int = FLOAT32.bytes

    def log_ms(self, parts: Sequence[NetPart]) -> Array:
        """Logarithm of each part's base latency: (parts,)."""
        return _log_ms(self.costs, self._prepared(parts))

    def log_shares(self, parts: Sequence[NetPart]) -> Array:
        """Where the time goes: log of ms in the first conv, the depthwise convs and the last conv; (parts, 3)."""
        prepared = self._prepared(parts)
        table, times = prepared.table, np.log(_times(self.costs, prepared).convs)
        first = np.searchsorted(table.part, np.arange(len(parts)))
        last = np.searchsorted(table.part, np.arange(len(parts)), side="right") - 1
        depthwise = table.by_part(np.exp(times) * table.is_depthwise)
        return np.column_stack([times[first], np.log(depthwise + 1e-9), times[last]])

    def prior_covariance(self, parts: Sequence[NetPart]) -> Array:
        """Covariance of the log latencies of ``parts`` before any measurement: (parts, parts).

        The prior variance of the costs, propagated through the model linearised at these costs.
        """
        slopes = _slopes(self.costs, self._prepared(parts))
        widths = np.array([width for _, _, width in _PRIORS.values()])
        return np.asarray((slopes * widths**2) @ slopes.T)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        costs = dict(zip(COSTS, self.costs.tolist(), strict=True))
        ranges = {"lowest": self.lowest.tolist(), "highest": self.highest.tolist()}
        return {"log_costs": costs, **ranges, "element_bytes": self.element_bytes}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Base:
        """What :meth:`to_dict` gave; KeyError, TypeError or ValueError on other data."""
        costs = np.array([float(value["log_costs"][name]) for name in COSTS])
        lowest, highest = (np.array(value[name], dtype=np.float64) for name in ("lowest", "highest"))
        return cls(costs, lowest, highest, int(value["element_bytes"]))

    def _prepared(self, parts: Sequence[NetPart]) -> _Prepared:
        return _prepare(conv_table(parts, self.element_bytes), self.lowest, self.highest)


def fit_base(
    parts: Sequence[NetPart], latency: Array, start: Base | None = None, element_bytes: int = FLOAT32.bytes
) -> Base:
    """Fits the costs to ``latency`` (parts,) in milliseconds, all above 0; ``start`` saves steps."""
    table, wanted = conv_table(parts, element_bytes), np.log(latency)
    lowest, highest = _seen(table)
    prepared = _prepare(table, lowest, highest)
    middle, width = _priors(table, wanted)

    def residuals(costs: Array) -> Array:
        error = (_log_ms(costs, prepared) - wanted) / _ERROR
        return np.concatenate([_robust(error)[0], (costs - middle) / width])

    def slopes(costs: Array) -> Array:
        error = (_log_ms(costs, prepared) - wanted) / _ERROR
        return np.vstack([_robust(error)[1][:, None] * _slopes(costs, prepared) / _ERROR, np.diag(1.0 / width)])

    fit = least_squares(residuals, middle if start is None else start.costs, slopes, max_nfev=_EVALUATIONS)
    return Base(np.asarray(fit.x, dtype=np.float64), lowest, highest, element_bytes)


def typical_base(parts: Sequence[NetPart], element_bytes: int = FLOAT32.bytes) -> Base:
    """The base of a typical processor, for ``parts`` without any measurement."""
    table = conv_table(parts, element_bytes)
    costs, _ = _priors(table, np.log(_TYPICAL_MAC_MS * table.by_part(table.macs) + _TYPICAL_PART_MS))
    return Base(costs, *_seen(table), element_bytes)


def _robust(error: Array) -> tuple[Array, Array]:
    """A robust loss: errors whose square grows linearly beyond ``_OUTLIER``, and their derivative."""
    size = np.abs(error) / _OUTLIER + 1e-9
    root = np.sqrt(1.0 + size**2)
    robust = size * np.sqrt(2.0 / (root + 1.0))  # the square root of 2 (root - 1), without its cancellation
    return np.sign(error) * _OUTLIER * robust, size / (root * robust)


@dataclass(frozen=True)
class _Prepared:
    """Arrays of a table of convs that every evaluation of a fit needs."""

    table: ConvTable
    effects: Array  # (convs, len(COSTS)): weight of each cost in the logarithm of the cost per MAC
    moved: Array  # (convs, len(_TRAFFIC)): bytes
    started: Array  # (parts, len(_STARTS)): kernels


def _log_sizes(table: ConvTable) -> Array:
    """Channels in, channels out, pixels and stride relative to a typical conv, as logarithms: (convs, 4)."""
    typical = np.array([64.0, 64.0, 400.0, 1.0])
    sizes = np.column_stack([table.channels_in, table.channels_out, table.pixels, table.stride])
    return np.asarray(np.log(sizes / typical))


def _seen(table: ConvTable) -> tuple[Array, Array]:
    """Least and greatest sizes among pointwise and among depthwise convs: two arrays (2, 4)."""
    sizes = _log_sizes(table)
    kinds = [sizes[mask] if mask.any() else sizes for mask in (table.is_pointwise, table.is_depthwise)]
    return np.array([kind.min(axis=0) for kind in kinds]), np.array([kind.max(axis=0) for kind in kinds])


def _prepare(table: ConvTable, lowest: Array, highest: Array) -> _Prepared:
    pointwise, depthwise = table.is_pointwise, table.is_depthwise
    sizes = np.clip(_log_sizes(table)[None], lowest[:, None] - _BEYOND, highest[:, None] + _BEYOND)
    k, n, m, stride = sizes[0].T * pointwise
    effects = _COSTS_OF_KINDS[table.kind]
    effects[:, _BENDS_POINTWISE] = np.column_stack([k, n, m, stride])
    effects[:, _CURVES_POINTWISE] = np.column_stack([k * k, n * n, m * m, k * n, k * m, n * m])
    effects[:, _BENDS_DEPTHWISE] = sizes[1][:, 1:] * depthwise[:, None]
    channels, vectors = table.channels_out[:, None], _VECTOR_BYTES / table.element_bytes
    effects[:, _PADDED] = np.log(np.ceil(channels / vectors) * vectors / channels)
    activations = (table.moved_bytes * pointwise, table.moved_bytes * depthwise)
    moved = (*activations, table.shuffled_bytes, table.residual_bytes, table.weight_bytes)
    started = (np.ones(len(channels)), (table.shuffled_bytes > 0).astype(np.float64))
    return _Prepared(
        table, effects, np.column_stack(moved), np.column_stack([table.by_part(kernels) for kernels in started])
    )


@dataclass(frozen=True)
class _Times:
    """Latencies of parts and their convs, in milliseconds."""

    arithmetic: Array  # (convs,)
    traffics: Array  # (convs, len(_TRAFFIC)): of each kind
    work: Array  # (parts,)
    starts: Array  # (parts, len(_STARTS)): of each kind
    power: float
    constant: float

    @property
    def traffic(self) -> Array:
        return np.asarray(self.traffics.sum(axis=1))

    @property
    def convs(self) -> Array:
        """The roofline: (convs,)."""
        return np.hypot(self.arithmetic, self.traffic)

    @property
    def together(self) -> Array:
        """p-norm of work and launches: p = 1 adds them, a large p takes the slower one; (parts,)."""
        starts = self.starts.sum(axis=1)
        longest = np.maximum(self.work, starts)
        ratios = (self.work / longest) ** self.power + (starts / longest) ** self.power
        return np.asarray(longest * ratios ** (1.0 / self.power))


def _times(costs: Array, prepared: _Prepared) -> _Times:
    table, cost = prepared.table, np.exp(np.clip(costs, -50.0, 50.0))
    arithmetic = table.macs * np.exp(prepared.effects @ costs)
    traffics = prepared.moved * cost[_TRAFFIC]
    work = table.by_part(np.hypot(arithmetic, traffics.sum(axis=1)))
    power = 1.0 + float(cost[COSTS.index("overlap")])
    return _Times(arithmetic, traffics, work, prepared.started * cost[_STARTS], power, float(cost[_CONSTANT]))


def _log_ms(costs: Array, prepared: _Prepared) -> Array:
    times = _times(costs, prepared)
    return np.asarray(np.log(times.together + times.constant))


def _slopes(costs: Array, prepared: _Prepared) -> Array:
    """Derivative of :func:`_log_ms` by the costs: (parts, len(COSTS))."""
    times = _times(costs, prepared)
    convs, together, starts = times.convs, times.together, times.starts.sum(axis=1)
    slopes = (times.arithmetic**2 / convs)[:, None] * prepared.effects
    slopes[:, _TRAFFIC] += (times.traffic / convs)[:, None] * times.traffics
    by_part = (times.work / together)[:, None] ** (times.power - 1.0) * (prepared.table.owners @ slopes)
    by_part[:, _STARTS] += (starts / together)[:, None] ** (times.power - 1.0) * times.starts
    shares = [np.maximum(term / together, 1e-12) for term in (times.work, starts)]
    by_power = together * sum(share**times.power * np.log(share) for share in shares) / times.power
    by_part[:, COSTS.index("overlap")] = by_power * (times.power - 1.0)
    by_part[:, _CONSTANT] = times.constant
    return np.asarray(by_part / (together + times.constant)[:, None])


def _priors(table: ConvTable, wanted: Array) -> tuple[Array, Array]:
    """Middle and width of each cost's prior: two arrays (len(COSTS),)."""
    centres = {
        _MAC: float(np.median(wanted - np.log(table.by_part(table.macs)))),
        _BYTE: float(np.median(wanted - np.log(table.by_part(table.moved_bytes)))),
        _PART: float(np.median(wanted)),
        _ONE: 0.0,
    }
    middle = np.array([centres[unit] + offset for unit, offset, _ in _PRIORS.values()])
    return middle, np.array([width for _, _, width in _PRIORS.values()])
