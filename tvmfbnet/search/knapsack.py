"""The best archs within several additive constraints, exactly: a multiple-choice knapsack as an integer program.

One binary variable per candidate, exactly one of each layer; the objective and every constraint are sums of cells, and
the objective may also count pairs of blocks in neighbouring layers. Solved by HiGHS through
:func:`scipy.optimize.milp`; a space of 22 layers and 9 candidates takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from tvmfbnet.search.cost_model import AdditiveCosts, Choice

if TYPE_CHECKING:
    import numpy as np
    from scipy.optimize import LinearConstraint

    from tvmfbnet.search.constraints import Constraint

# The solver is allowed to exceed a bound by its tolerance; then the bound is lowered by these shares.
_TIGHTER = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)

Pairs = Sequence[Sequence[Sequence[float]]]
"""For each layer but the last, (its candidates, the next layer's candidates): what the two together add."""


def additive(constraint: Constraint) -> AdditiveCosts:
    """The cost model of an additive constraint; TypeError for another one."""
    if not isinstance(constraint.model, AdditiveCosts):
        raise TypeError(f"{constraint.quantity.name} does not add up over layers")
    return constraint.model


def least_choice(
    objective: Sequence[Sequence[float]], constraints: Sequence[Constraint], pairs: Pairs = ()
) -> Choice | None:
    """The arch with the least sum of ``objective`` within additive constraints; None where there is none.

    Args:
        objective: one number per candidate of each layer.
        constraints: on :class:`AdditiveCosts`.
        pairs: what neighbouring blocks add to the objective.
    """
    return _Program(objective, pairs).solve(constraints, ())


def least_choices(
    objective: Sequence[Sequence[float]], constraints: Sequence[Constraint], count: int, pairs: Pairs = ()
) -> list[Choice]:
    """The ``count`` archs with the least sums, least first; fewer where there are no more.

    Each is solved for exactly, with those before it cut off.

    Args:
        objective: one number per candidate of each layer.
        constraints: on :class:`AdditiveCosts`.
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
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        cuts = []
        for choice in excluded:
            cut = np.zeros(self._singles)
            cut[self._starts + np.asarray(choice)] = 1.0
            cuts.append(LinearConstraint(self._row(cut), -np.inf, len(choice) - 1.0))
        for tighter in _TIGHTER:
            limits = []
            for constraint in constraints:
                model = additive(constraint)
                cells = np.concatenate([np.asarray(row, dtype=float) for row in model.cells])
                spare = constraint.bound - model.fixed
                if spare < 0:
                    return None
                scale = spare or 1.0
                limits.append(LinearConstraint(self._row(cells) / scale, -np.inf, spare / scale * (1.0 - tighter)))
            solved = milp(
                self._cost,
                integrality=(np.arange(len(self._cost)) < self._singles).astype(float),
                bounds=Bounds(0.0, 1.0),
                constraints=[*self._structure, *limits, *cuts],
                options={"mip_rel_gap": 0.0},
            )
            if solved.x is None:
                return None
            places = zip(self._starts, self._widths, strict=True)
            choice = tuple(int(np.argmax(solved.x[start : start + width])) for start, width in places)
            if all(item.met(choice) for item in constraints):
                return choice
        return None
