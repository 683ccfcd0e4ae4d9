"""A Gaussian process over parts: predicts a part from similar ones, with its uncertainty.

It models the logarithm of a part's latency over its base latency as a sum of smooth functions: of the part's
coordinates, of its work and memory, and of the block within one layer shape (shapes have quirks that their neighbours
do not share). Scales are fitted by maximum marginal likelihood under weak priors (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, chapter 5). Even without any measurement it says which parts are similar, which
choosing the parts to measure needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import LinAlgError, cho_solve, cholesky
from scipy.optimize import minimize

from tvmfbnet.latency.features import COORDINATES, LOADS, WITHIN_SHAPE, coordinates, loads
from tvmfbnet.space.space import NetPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_WITHIN = len(COORDINATES[WITHIN_SHAPE])
# Length scales of the three functions (within a shape, over blocks, over loads), each behind its amplitude; then the
# amplitude of a linear trend and the noise. All as logarithms; these are the priors' means.
_PRIOR: Array = np.log(
    np.array([0.1, *[3.0] * _WITHIN, 0.1, *[3.0] * len(COORDINATES), 0.1, *[2.0] * len(LOADS), 0.1, 0.05])
)
# Narrow, as there are 24 scales and about 100 parts: wide priors overfit, and are overconfident about other parts.
_PRIOR_WIDTH = 0.5
_AMPLITUDES = (0, 1 + _WITHIN, 2 + _WITHIN + len(COORDINATES))
_BOUND = 4.0
_STEPS = 60
_JITTER = 1e-6

SCALES = len(_PRIOR)


class Similarity:
    """The terms of the covariance between two lists of parts, for any scales."""

    def __init__(self, left: Sequence[NetPart], right: Sequence[NetPart]) -> None:
        first, second = coordinates(left), coordinates(right)
        columns = [shape_of(part) for part in right]
        same = np.array([[shape == other for other in columns] for shape in map(shape_of, left)], dtype=np.float64)
        inner = _squares(first[:, WITHIN_SHAPE], second[:, WITHIN_SHAPE])
        self._pieces = (
            (inner, same.reshape(len(left), len(right))),
            (_squares(first, second), None),
            (_squares(loads(left), loads(right)), None),
        )
        self._trend: Array = _trend(first) @ _trend(second).T

    def covariance(self, scales: Array) -> Array:
        """(left, right), without noise."""
        return sum((amplitude * kernel for amplitude, kernel, _ in self._terms(scales)), self._linear(scales))

    def slopes(self, scales: Array, weights: Array) -> Array:
        """Sum of ``weights`` (left, right) times the covariance's derivative by each scale but the noise."""
        slopes: list[Array] = []
        for amplitude, kernel, slope in self._terms(scales):
            slopes.append(np.array([2.0 * amplitude * float((weights * kernel).sum())]))
            slopes.append(amplitude * np.tensordot(slope, weights, axes=([1, 2], [0, 1])))
        slopes.append(np.array([2.0 * float((weights * self._linear(scales)).sum())]))
        return np.concatenate(slopes)

    def _linear(self, scales: Array) -> Array:
        return np.asarray(np.exp(2.0 * scales[-2]) * self._trend)

    def _terms(self, scales: Array) -> list[tuple[float, Array, Array]]:
        """Of each function: squared amplitude, Matern 3/2 kernel, its derivative by the log of each length scale."""
        terms, start = [], 0
        for squares, mask in self._pieces:
            count = len(squares)
            scaled = squares / np.exp(2.0 * scales[start + 1 : start + 1 + count])[:, None, None]
            distance = np.sqrt(3.0 * scaled.sum(axis=0) + 1e-12)
            decay = np.exp(-distance) * (1.0 if mask is None else mask)
            terms.append((float(np.exp(2.0 * scales[start])), (1.0 + distance) * decay, 3.0 * scaled * decay))
            start += 1 + count
        return terms


def default_scales() -> Array:
    """The means of the priors, for use before any measurement: (SCALES,)."""
    return _PRIOR.copy()


def noise_of(scales: Array) -> float:
    """Variance of the noise."""
    return float(np.exp(2.0 * scales[-1])) + _JITTER


def fit_scales(parts: Sequence[NetPart], values: Array) -> Array:
    """The most probable scales given ``values`` (parts,) at ``parts``: (SCALES,)."""
    similarity, identity = Similarity(parts, parts), np.eye(len(parts))

    def loss(scales: Array) -> tuple[float, Array]:
        try:
            factor = cholesky(similarity.covariance(scales) + noise_of(scales) * identity, lower=True)
        except LinAlgError:  # scales with a singular matrix are rejected
            return 1e10, np.zeros_like(scales)
        inverse = cho_solve((factor, True), identity)
        solved = inverse @ values
        weights = 0.5 * (inverse - np.outer(solved, solved))
        noise = 2.0 * np.exp(2.0 * scales[-1]) * np.trace(weights)
        off = (scales - _PRIOR) / _PRIOR_WIDTH
        value = 0.5 * values @ solved + np.log(np.diag(factor)).sum() + 0.5 * off @ off
        return float(value), np.append(similarity.slopes(scales, weights), noise) + off / _PRIOR_WIDTH

    bounds = [(middle - _BOUND, middle + _BOUND) for middle in _PRIOR]
    fit = minimize(loss, _PRIOR, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
    return np.asarray(fit.x, dtype=np.float64)


class GaussianProcess:
    """The posterior process given ``values`` (parts,) at ``parts``.

    Args:
        parts: the training parts.
        values: their values.
        scales: see :func:`fit_scales`.
    """

    def __init__(self, parts: Sequence[NetPart], values: Array, scales: Array) -> None:
        self.parts, self.values, self.scales = tuple(parts), values, scales
        covariance = Similarity(parts, parts).covariance(scales) + noise_of(scales) * np.eye(len(parts))
        self._factor = cholesky(covariance, lower=True)
        self._solved = cho_solve((self._factor, True), values)

    def predict(self, parts: Sequence[NetPart]) -> tuple[Array, Array]:
        """Mean and standard deviation (noise included) at ``parts``: two arrays (parts,)."""
        across = Similarity(parts, self.parts).covariance(self.scales)
        explained = np.einsum("ij,ji->i", across, cho_solve((self._factor, True), across.T))
        variance = np.maximum(_prior_variance(parts, self.scales) - explained, 0.0) + noise_of(self.scales)
        return np.asarray(across @ self._solved), np.sqrt(variance)


def _prior_variance(parts: Sequence[NetPart], scales: Array) -> Array:
    amplitudes = float(np.exp(2.0 * scales[list(_AMPLITUDES)]).sum())
    return np.asarray(amplitudes + np.exp(2.0 * scales[-2]) * (_trend(coordinates(parts)) ** 2).sum(axis=1))


def shape_of(part: NetPart) -> tuple[str, int, int, int, int, int]:
    """The layer shape that a part belongs to; stem and head have one each."""
    return (part.part, part.cin, part.cout, part.height, part.width, part.stride)


def _squares(left: Array, right: Array) -> Array:
    """(dimensions, left, right)."""
    return np.asarray((left.T[:, :, None] - right.T[:, None, :]) ** 2)


def _trend(places: Array) -> Array:
    """Coordinates relative to the middle of typical nets, in units of their typical range."""
    middle = np.array([6.0, 6.0, 8.0, *[0.0] * (places.shape[1] - 3)])
    return np.asarray((places - middle) / 2.0)
