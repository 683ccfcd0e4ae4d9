"""The best archs within several constraints, exactly: a multiple-choice knapsack as an integer program.

One binary variable per candidate, exactly one of each layer; the objective and every additive constraint are sums of
cells, and the objective may also count pairs of blocks in neighbouring layers. Solved by HiGHS through
:func:`scipy.optimize.milp`; a space of 22 layers and 9 candidates takes milliseconds.

A constraint that does not add up removes the candidates that no arch within it has
(:meth:`tvmfbnet.search.cost_model.CostModel.allowed`). If the best arch that is left meets it, that arch is the exact
optimum. Otherwise the next best ones are tried, and then those of fewer candidates, as if the bound were lower: these
meet the constraints, but a better arch may exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tvmfbnet.native_output import native_output_discarded
from tvmfbnet.search.cost_model import AdditiveCosts, Choice

if TYPE_CHECKING:
    import numpy as np
    from scipy.optimize import LinearConstraint

    from tvmfbnet.search.constraints import Constraint

# The solver is allowed to exceed a bound by its tolerance; then the bound is lowered by these shares.
_TIGHTER = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)
# How many archs are tried that violate a constraint which does not add up, and shares of its bound after that.
_TRIED, _SHARES = 8, (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)

Pairs = Sequence[Sequence[Sequence[float]]]
"""For each layer but the last, (its candidates, the next layer's candidates): what the two together add."""


def least_choice(
    objective: Sequence[Sequence[float]], constraints: Sequence[Constraint], pairs: Pairs = ()
) -> Choice | None:
    """The arch with the least sum of ``objective`` within constraints; None where there is none.

    Where a constraint does not add up, None says that none was tried; :func:`is_infeasible` tells whether there is one.

    Args:
        objective: one number per candidate of each layer.
        constraints: what it must meet.
        pairs: what neighbouring blocks add to the objective.
    """
    return _Program(objective, pairs).solve(constraints, ())


def is_infeasible(constraints: Sequence[Constraint]) -> bool:
    """Whether certainly no arch meets all constraints; certain either way where all of them add up."""
    sums = [item.model.cells for item in constraints if isinstance(item.model, AdditiveCosts)]
    # The least of a sum is looked for, as it may be the only one that its bound just admits.
    objective = sums[0] if sums else [[0.0] * len(row) for row in constraints[0].model.allowed(math.inf)]
    program = _Program(objective, ())
    return program.candidate(constraints, (), 1.0) is None


def least_choices(
    objective: Sequence[Sequence[float]], constraints: Sequence[Constraint], count: int, pairs: Pairs = ()
) -> list[Choice]:
    """The ``count`` archs with the least sums, least first; fewer where there are no more.

    Each is solved for exactly, with those before it cut off.

    Args:
        objective: one number per candidate of each layer.
        constraints: what they must meet.
        count: how many.
        pairs: what neighbouring blocks add to the objective.
    """
    program = _Program(objective, pairs)
    best: list[Choice] = []
    while len(best) < count:
        choice = program.solve(constraints, best)
        if choice is None:
            break
        best.append(choice)
    return best


class _Program:
    """The variables of the integer program: the candidates of all layers, then the pairs of neighbouring ones."""

    def __init__(self, objective: Sequence[Sequence[float]], pairs: Pairs) -> None:
        import numpy as np

        self._widths = [len(row) for row in objective]
        self._starts = np.cumsum([0, *self._widths[:-1]])
        self._singles = sum(self._widths)
        numbers = [np.asarray(row, dtype=float) for row in objective]
        numbers += [np.asarray(table, dtype=float).ravel() for table in pairs]
        self._cost = np.concatenate(numbers)
        self._structure = [self._one_each(), *([self._pairs_agree()] if len(pairs) else [])]

    def _one_each(self) -> LinearConstraint:
        import numpy as np
        from scipy.optimize import LinearConstraint

        layers = np.zeros((len(self._widths), len(self._cost)))
        for layer, (start, width) in enumerate(zip(self._starts, self._widths, strict=True)):
            layers[layer, start : start + width] = 1.0
        return LinearConstraint(layers, 1.0, 1.0)

    def _pairs_agree(self) -> LinearConstraint:
        """A candidate is chosen exactly if one pair with it is chosen, on either side."""
        import numpy as np
        from scipy.optimize import LinearConstraint

        rows, at = [], self._singles
        for layer, (left, right) in enumerate(pairwise(self._widths)):
            places = at + np.arange(left * right).reshape(left, right)
            at += left * right
            for side, start in ((places, self._starts[layer]), (places.T, self._starts[layer + 1])):
                for index, pair in enumerate(side):
                    row = np.zeros(len(self._cost))
                    row[pair], row[start + index] = 1.0, -1.0
                    rows.append(row)
        return LinearConstraint(np.stack(rows), 0.0, 0.0)

    def _row(self, cells: np.ndarray) -> np.ndarray:
        """A row of the program that says nothing of pairs."""
        import numpy as np

        return np.concatenate([cells, np.zeros(len(self._cost) - self._singles)])[None]

    def solve(self, constraints: Sequence[Constraint], excluded: Sequence[Choice]) -> Choice | None:
        """The best arch but the excluded ones."""
        others = [item for item in constraints if not isinstance(item.model, AdditiveCosts)]
        for share in _SHARES if others else _SHARES[:1]:
            tried: list[Choice] = []
            while len(tried) < _TRIED:
                choice = self.candidate(constraints, [*excluded, *tried], share)
                if choice is None:
                    break
                if all(item.met(choice) for item in others):
                    return choice
                tried.append(choice)
        return None

    def candidate(self, constraints: Sequence[Constraint], excluded: Sequence[Choice], share: float) -> Choice | None:
        """The best arch within the additive constraints, of candidates that the others allow at a share of their bound.

        Args:
            constraints: all.
            excluded: archs that it must not be.
            share: 1 for the bounds themselves.
        """
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        cuts = []
        additive = [item for item in constraints if isinstance(item.model, AdditiveCosts)]
        for choice in excluded:
            cut = np.zeros(self._singles)
            cut[self._starts + np.asarray(choice)] = 1.0
            cuts.append(LinearConstraint(self._row(cut), -np.inf, len(choice) - 1.0))
        for tighter in _TIGHTER:
            limits: list[LinearConstraint] = []
            for constraint in additive:
                model = _costs(constraint)
                cells = np.concatenate([np.asarray(row, dtype=float) for row in model.cells])
                spare = constraint.bound - model.fixed
                if spare < 0:
                    return None
                scale = spare or 1.0
                limits.append(LinearConstraint(self._row(cells) / scale, -np.inf, spare / scale * (1.0 - tighter)))
            with native_output_discarded():
                solved = milp(
                    self._cost,
                    integrality=(np.arange(len(self._cost)) < self._singles).astype(float),
                    bounds=Bounds(0.0, self._allowed(constraints, share)),
                    constraints=[*self._structure, *limits, *cuts],
                    options={"mip_rel_gap": 0.0},
                )
            if solved.x is None:
                return None
            places = zip(self._starts, self._widths, strict=True)
            choice = tuple(int(np.argmax(solved.x[start : start + width])) for start, width in places)
            if all(item.met(choice) for item in additive):
                return choice
        return None

    def _allowed(self, constraints: Sequence[Constraint], share: float) -> np.ndarray:
        """The largest value of each variable: 0 for candidates that a constraint which does not add up excludes."""
        import numpy as np

        most = np.ones(len(self._cost))
        for item in constraints:
            if not isinstance(item.model, AdditiveCosts):
                rows = item.model.allowed(share * item.bound)
                most[: self._singles] *= np.concatenate([np.asarray(row, dtype=float) for row in rows])
        return most


def _costs(constraint: Constraint) -> AdditiveCosts:
    """The cost model of an additive constraint; TypeError for another one."""
    if not isinstance(constraint.model, AdditiveCosts):
        raise TypeError(f"{constraint.quantity.name} does not add up over layers")
    return constraint.model
