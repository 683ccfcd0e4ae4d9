"""Archs that may be trained next: all within the constraints where a space is small, else draws and what lies near.

Of archs that compute the same net there is one (:class:`tvmfbnet.search.predictor.features.Canonical`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.knapsack import least_choices
from tvmfbnet.search.predictor.features import Canonical, Choices
from tvmfbnet.space.space import Space

# The most archs of a space that is enumerated; the predictor is asked for all of those within the constraints.
ENUMERATED = 20_000
# Relative rounding of a sum of costs.
_ROUNDING = 1e-9
# Archs that are drawn near one arch.
_NEAR = 500


class Candidates:
    """The archs of a space within constraints, each in its canonical form.

    Args:
        space: the space.
        constraints: what every arch must meet.
    """

    def __init__(self, space: Space, constraints: Sequence[Constraint]) -> None:
        self._space, self._constraints = space, tuple(constraints)
        self.widths = [len(layer.blocks) for layer in space.layers]
        self.all_enumerated = space.size <= ENUMERATED
        self._canonical = Canonical(space, [c.model for c in self._constraints if isinstance(c.model, AdditiveCosts)])

    def enumerate(self) -> Choices:
        """Every arch."""
        return self.fitting(np.indices(self.widths).reshape(len(self.widths), -1).T)

    def fitting(self, choices: Choices | Iterable[Choice]) -> Choices:
        """Those that meet all constraints, without repeats, in order of their indices."""
        rows = np.array(choices if isinstance(choices, np.ndarray) else list(choices), dtype=np.int64)
        rows = rows.reshape(-1, len(self.widths))
        return np.asarray(np.unique(self.canonical(rows[self._meet(rows)]), axis=0))

    def canonical(self, choices: Choices) -> Choices:
        """Each arch in its canonical form, or as it is where that would violate a constraint."""
        canonical = self._canonical.of(choices)
        return np.asarray(np.where(self._meet(canonical)[:, None], canonical, choices))

    def near(self, choice: Choice, draw: np.random.Generator) -> Choices:
        """The archs that differ in one layer, and random ones that differ in two, within the constraints."""
        centre = np.array(choice)
        singles = [np.repeat(centre[None], width, axis=0) for width in self.widths]
        for layer, rows in enumerate(singles):
            rows[:, layer] = np.arange(len(rows))
        doubles, every = np.repeat(centre[None], _NEAR, axis=0), np.arange(_NEAR)
        for _ in range(2):
            layers = draw.integers(len(centre), size=_NEAR)
            doubles[every, layers] = draw.integers(np.array(self.widths)[layers])
        return self.fitting(np.concatenate([*singles, doubles]))

    def best_by(self, cells: Sequence[Sequence[float]], count: int) -> Choices:
        """The archs with the largest sums of ``cells`` (:func:`tvmfbnet.search.knapsack.least_choices`)."""
        negative = [[-cell for cell in row] for row in cells]
        return self.fitting(least_choices(negative, self._constraints, count))

    def _meet(self, choices: Choices) -> NDArray[np.bool_]:
        meets = np.ones(len(choices), dtype=bool)
        for constraint in self._constraints:
            close = meets
            if isinstance(constraint.model, AdditiveCosts):
                share = sum_of(constraint.model, choices) / constraint.bound
                meets = meets & (share <= 1 + _ROUNDING)
                close = meets & (share >= 1 - _ROUNDING)
            for row in np.flatnonzero(close):  # as the search itself decides, without another rounding
                meets[row] = constraint.met(tuple(choices[row].tolist()))
        return meets


def sum_of(model: AdditiveCosts, choices: Choices) -> NDArray[np.float64]:
    """An additive quantity of many archs at once."""
    cells = np.array(model.padded())
    return np.asarray(cells[np.arange(choices.shape[1]), choices].sum(axis=1) + model.fixed)
