"""How alike two archs are: the kernels that the accuracy predictor weighs against each other.

The first four are linear in features that add up over layers, so what they learn is one number per candidate of each
layer. The fifth (Matern 5/2: Rasmussen and Williams 2006, eq. 4.17) is whatever blocks do together, and the last one
what an arch has of its own: repeated trainings tell it from noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tvmfbnet.search.predictor.features import Described, Table

# How much the distance in size counts beside the distance in blocks.
_SIZE_SHARE = 0.3


@dataclass(frozen=True)
class CovarianceKernel:
    """A covariance of the accuracies of two lists of archs.

    Attributes:
        name: for people.
        between: (archs, archs), of variance about 1.
        weight: its variance as a share of that of accuracies, before any arch was trained.
    """

    name: str
    between: Callable[[Described, Described], Table]
    weight: float


def _linear(feature: str) -> Callable[[Described, Described], Table]:
    def between(one: Described, other: Described) -> Table:
        left, right = getattr(one, feature), getattr(other, feature)
        return np.asarray(left @ right.T / max(1, left.shape[1]))

    return between


def _blocks(one: Described, other: Described) -> Table:
    layers = one.blocks[0].sum() if len(one) else 1.0
    return np.asarray(one.blocks @ other.blocks.T / layers)


def _interactions(one: Described, other: Described) -> Table:
    blocks = _squares(one.fields, other.fields)
    distance = np.sqrt(5.0 * (blocks + _SIZE_SHARE * _squares(one.log_sizes, other.log_sizes)))
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))


def _own(one: Described, other: Described) -> Table:
    """1 for the same arch: what it has of its own, which trainings of no other arch tell."""
    return np.asarray(_blocks(one, other) > 1.0 - 1e-9, dtype=np.float64)


def _squares(one: Table, other: Table) -> Table:
    """Mean squared distance over features."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T
    return np.asarray(np.maximum(squares, 0.0) / max(1, one.shape[1]))


LINEAR = (
    CovarianceKernel("blocks", _blocks, 0.3),
    CovarianceKernel("fields", _linear("fields"), 0.3),
    CovarianceKernel("totals", _linear("totals"), 0.5),
    CovarianceKernel("sizes", _linear("sizes"), 0.5),
)
KERNELS = (*LINEAR, CovarianceKernel("interactions", _interactions, 0.3), CovarianceKernel("own", _own, 0.03))


def covariances(one: Described, other: Described) -> Table:
    """(kernels, archs, archs)."""
    return np.stack([kernel.between(one, other) for kernel in KERNELS])


def variances(archs: Described) -> Table:
    """(kernels, archs): every kernel of an arch with itself."""
    linear = [(getattr(archs, k.name) ** 2).sum(axis=1) / max(1, getattr(archs, k.name).shape[1]) for k in LINEAR[1:]]
    return np.stack([np.ones(len(archs)), *linear, np.ones(len(archs)), np.ones(len(archs))])


def log_weights() -> Table:
    """Logarithm of every kernel's weight beforehand."""
    return np.array([math.log(kernel.weight) for kernel in KERNELS])
