"""The accuracy predictor: a Gaussian process fitted to all that is known about archs.

Its prior is a weighted sum of :mod:`tvmfbnet.search.predictor.kernels`. The weights, and the noise of what was
observed, maximise the marginal likelihood times a log-normal prior (Rasmussen and Williams 2006, section 5.4), so
interactions count only as far as the observations speak for them.

Observations come from sources of different worth: full short trainings, which are to be predicted, and for instance
shorter trainings or accuracies with a supernet's weights. Each source has its own mean, scale and noise, and a
correlation with what is predicted (cokriging with an intrinsic correlation: Bonilla et al. 2008); all three are
learned, so that a source which tells nothing ends up ignored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from tvmfbnet.search.predictor.features import ArchFeatures, Described, Table
from tvmfbnet.search.predictor.kernels import KERNELS, LINEAR, covariances, log_weights, variances

# Variance of the mean of all accuracies, in units of their variance.
_MEAN = 10.0
_JITTER = 1e-8
# Priors of the logarithm of weights and noise, and of the correlation's inverse hyperbolic tangent: mean, deviation.
_WEIGHT_SPREAD, _NOISE, _CORRELATION = 1.5, (math.log(0.05), 1.0), (0.5, 0.5)
_LOG_RANGE = (-9.0, 5.0)
# Weights are fitted again when the number of observations has grown by this factor.
_GROWTH = 1.1


@dataclass(frozen=True)
class Observations:
    """What was observed of archs.

    Attributes:
        archs: their features.
        values: accuracies.
        sources: where each comes from; 0 is what is predicted.
    """

    archs: Described
    values: Table
    sources: NDArray[np.int64]

    def joined(self, more: Observations) -> Observations:
        """These and more."""
        values = np.concatenate([self.values, more.values])
        return Observations(self.archs.joined(more.archs), values, np.concatenate([self.sources, more.sources]))


@dataclass(frozen=True)
class Hyperparameters:
    """The fitted numbers.

    Attributes:
        weights: of every kernel.
        noise: variance of each source's noise, as a share of the variance of its values.
        correlations: of each source with source 0; that of source 0 is 1.
    """

    weights: Table
    noise: Table
    correlations: Table

    @classmethod
    def of(cls, vector: Table, sources: int) -> Hyperparameters:
        """From what the fit varies: logarithms of weights and noise, inverse hyperbolic tangents of correlations."""
        kernels = len(KERNELS)
        correlations = np.concatenate([[1.0], np.tanh(vector[kernels + sources :])])
        return cls(np.exp(vector[:kernels]), np.exp(vector[kernels : kernels + sources]), correlations)

    def between(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> Table:
        """Correlation of what two lists of sources tell about one arch."""
        products = np.outer(self.correlations[one], self.correlations[other])
        return np.asarray(np.where(one[:, None] == other, 1.0, products))


class AccuracyModel:
    """Fits observations; remembers the last fit to start the next one from.

    Args:
        sources: how many sources there may be.
    """

    def __init__(self, sources: int = 1) -> None:
        self._sources = sources
        prior = [*log_weights(), *[_NOISE[0]] * sources, *[_CORRELATION[0]] * (sources - 1)]
        spread = [_WEIGHT_SPREAD] * len(KERNELS) + [_NOISE[1]] * sources + [_CORRELATION[1]] * (sources - 1)
        self._prior, self._spread = np.array(prior), np.array(spread)
        self._vector, self._fitted = self._prior, 0

    def fit(self, observations: Observations) -> Posterior:
        """What is to be thought of archs after the observations."""
        inside = covariances(observations.archs, observations.archs)
        if len(observations.values) >= max(self._fitted * _GROWTH, self._fitted + 1):
            self._fitted = len(observations.values)
            scaled, _, _ = _standardised(observations, self._sources)
            start = np.clip(self._vector, *_LOG_RANGE)
            result = minimize(
                self._loss,
                start,
                (inside, scaled, observations.sources),
                method="L-BFGS-B",
                jac=True,
                bounds=[_LOG_RANGE] * len(start),
                options={"maxiter": 30},
            )
            self._vector = result.x
        return Posterior(observations, Hyperparameters.of(self._vector, self._sources), inside)

    def posterior(self, observations: Observations) -> Posterior:
        """The same with the numbers of the last fit."""
        inside = covariances(observations.archs, observations.archs)
        return Posterior(observations, Hyperparameters.of(self._vector, self._sources), inside)

    def _loss(
        self, vector: Table, inside: Table, values: Table, sources: NDArray[np.int64]
    ) -> tuple[float, NDArray[np.float64]]:
        """Negative logarithm of marginal likelihood times prior, and its gradient."""
        settings = Hyperparameters.of(vector, self._sources)
        alike, same = settings.between(sources, sources), sources[:, None] == sources
        whole = np.tensordot(settings.weights, inside, axes=1)
        matrix = alike * whole + _MEAN * same + np.diag(settings.noise[sources] + _JITTER)
        lower = cholesky(matrix, lower=True)
        dual = cho_solve((lower, True), values)
        inverse = cho_solve((lower, True), np.eye(len(values)))
        away = (vector - self._prior) / self._spread
        loss = 0.5 * values @ dual + np.log(np.diag(lower)).sum() + 0.5 * (away**2).sum()
        slope = 0.5 * (inverse - np.outer(dual, dual))
        by_weight = settings.weights * np.tensordot(inside, slope * alike, axes=([1, 2], [0, 1]))
        by_noise = settings.noise * np.bincount(sources, np.diag(slope), minlength=self._sources)
        by_correlation = []
        for source in range(1, self._sources):
            own = np.where(same, 0.0, (sources == source)[:, None] * settings.correlations[sources])
            by_correlation.append(2.0 * (slope * whole * own).sum() * (1.0 - settings.correlations[source] ** 2))
        gradient = np.concatenate([by_weight, by_noise, by_correlation]) + away / self._spread
        return float(loss), gradient


class Posterior:
    """What is to be thought of archs.

    Args:
        observations: what was observed.
        settings: the fitted numbers.
        inside: the kernels between the observed archs.
    """

    def __init__(self, observations: Observations, settings: Hyperparameters, inside: Table) -> None:
        self.observations, self.settings = observations, settings
        sources = observations.sources
        values, means, scales = _standardised(observations, len(settings.noise))
        self.mean, self.scale = means[0], scales[0]
        same = sources[:, None] == sources
        matrix = settings.between(sources, sources) * np.tensordot(settings.weights, inside, axes=1) + _MEAN * same
        matrix += np.diag(settings.noise[sources] + _JITTER)
        self._lower = cholesky(matrix, lower=True)
        self._dual = cho_solve((self._lower, True), values)
        self._to_target = settings.correlations[sources]

    @property
    def noise(self) -> float:
        """Standard deviation of an accuracy of source 0 from training to training."""
        return float(self.scale * math.sqrt(self.settings.noise[0]))

    def predict(self, archs: Described) -> tuple[Table, Table]:
        """Expected accuracy of each arch and its standard deviation, noise not included."""
        across = covariances(archs, self.observations.archs)
        return self.expect(across), self.deviate(archs, across)

    def expect(self, across: Table) -> Table:
        """Expected accuracies of archs.

        Args:
            across: (kernels, archs, observations): of these archs and the observed ones.
        """
        parts = across @ (self._to_target * self._dual)
        constant = _MEAN * self._dual[self.observations.sources == 0].sum()
        return np.asarray(self.mean + self.scale * (self.settings.weights @ parts + constant))

    def deviate(self, archs: Described, across: Table) -> Table:
        """Standard deviations of the expected accuracies, noise not included.

        Args:
            archs: their features.
            across: as of :meth:`expect`.
        """
        weighted = np.tensordot(self.settings.weights, across, axes=1) * self._to_target
        weighted += _MEAN * (self.observations.sources == 0)
        reduced = solve_triangular(self._lower, weighted.T, lower=True)
        variance = self.settings.weights @ variances(archs) + _MEAN - (reduced**2).sum(axis=0)
        return np.asarray(self.scale * np.sqrt(np.maximum(variance, 1e-12)))

    def additive_cells(self, features: ArchFeatures) -> list[list[float]]:
        """What each candidate of each layer adds to the expected accuracy, all else and a constant left out."""
        archs, dual = self.observations.archs, self.scale * self._dual * self._to_target
        blocks, fields, totals, sizes = self.settings.weights[: len(LINEAR)]
        return features.cells(
            blocks * (dual @ archs.blocks) / archs.blocks[0].sum(),
            *(
                weight * (dual @ table) / max(1, table.shape[1])
                for weight, table in ((fields, archs.fields), (totals, archs.totals), (sizes, archs.sizes))
            ),
        )


def _standardised(observations: Observations, sources: int) -> tuple[Table, Table, Table]:
    """Values with mean 0 and deviation 1 within each source; the means and the deviations."""
    means, scales = np.zeros(sources), np.ones(sources)
    for source in range(sources):
        own = observations.values[observations.sources == source]
        if len(own):
            means[source] = own.mean()
            scales[source] = max(float(own.std()), 1e-6) if len(own) > 1 else 1.0
    scaled = (observations.values - means[observations.sources]) / scales[observations.sources]
    return scaled, means, scales


def observed(archs: Described, values: Table, source: int = 0) -> Observations:
    """Observations of one source."""
    return Observations(archs, np.asarray(values, dtype=float), np.full(len(values), source))
