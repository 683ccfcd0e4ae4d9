"""The best arch within several additive constraints, exactly: a multiple-choice knapsack, solved as an integer program.

One binary variable per candidate, exactly one of each layer; the objective and every constraint are sums of cells.
Solved by HiGHS through :func:`scipy.optimize.milp`; a space of 22 layers and 9 candidates takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmfbnet.search.cost_model import AdditiveCosts, Choice

if TYPE_CHECKING:
    from tvmfbnet.search.constraints import Constraint

# The solver is allowed to exceed a bound by its tolerance; then the bound is lowered by these shares.
_TIGHTER = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)


def additive(constraint: Constraint) -> AdditiveCosts:
    """The cost model of an additive constraint; TypeError for another one."""
    if not isinstance(constraint.model, AdditiveCosts):
        raise TypeError(f"{constraint.quantity.name} does not add up over layers")
    return constraint.model


def least_choice(objective: Sequence[Sequence[float]], constraints: Sequence[Constraint]) -> Choice | None:
    """The arch with the least sum of ``objective`` within additive constraints; None where there is none.

    Args:
        objective: one number per candidate of each layer.
        constraints: on :class:`AdditiveCosts`.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    widths = [len(row) for row in objective]
    starts = np.cumsum([0, *widths[:-1]])
    layers = np.zeros((len(widths), sum(widths)))
    for layer, (start, width) in enumerate(zip(starts, widths, strict=True)):
        layers[layer, start : start + width] = 1.0
    one_each = LinearConstraint(layers, 1.0, 1.0)
    cost = np.concatenate([np.asarray(row, dtype=float) for row in objective])
    for tighter in _TIGHTER:
        limits = []
        for constraint in constraints:
            model = additive(constraint)
            cells = np.concatenate([np.asarray(row, dtype=float) for row in model.cells])
            spare = constraint.bound - model.fixed
            if spare < 0:
                return None
            scale = spare or 1.0
            limits.append(LinearConstraint(cells[None] / scale, -np.inf, spare / scale * (1.0 - tighter)))
        solved = milp(
            cost,
            integrality=np.ones_like(cost),
            bounds=Bounds(0.0, 1.0),
            constraints=[one_each, *limits],
            options={"mip_rel_gap": 0.0},
        )
        if solved.x is None:
            return None
        pairs = zip(starts, widths, strict=True)
        choice = tuple(int(np.argmax(solved.x[start : start + width])) for start, width in pairs)
        if all(item.met(choice) for item in constraints):
            return choice
    return None
