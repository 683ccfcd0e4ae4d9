"""Lagrange multipliers that bring the mean arch of a theta, learned without regard to constraints, to their bounds.

What the controllers of :mod:`tvmfbnet.search.controller` reach step by step is solved for here: P(a) is
proportional to ``exp(sum_l theta[l, b_l] - multiplier * cost(a) / bound)``, and the multiplier is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tvmfbnet.search.controller import Steered

# Of one multiplier: bisections, and its largest value. Rounds over those of several constraints.
_BISECTIONS, _LARGEST, _ROUNDS = 40, 1e4, 10


def bounded_theta(
    theta: torch.Tensor, mask: torch.Tensor, constraints: Sequence[Steered]
) -> tuple[torch.Tensor, list[float]]:
    """Theta less each block's costs times their multipliers, and the multiplier of each constraint.

    A multiplier is positive where a bound binds, else 0. Where none does, the nearest one's is negative: theta's mean
    arch comes up to it, as the square of the penalty lets a theta that learns by gradient. A bound that no arch can
    violate has the multiplier 0.

    Args:
        theta: (layers, candidates), without regard to constraints.
        mask: (layers, candidates), False where there is no candidate.
        constraints: at least one.
    """
    solver = _Solver(theta.double(), mask, constraints)
    binding = [number for number, item in enumerate(constraints) if item.constraint.may_bind]
    for _ in range(_ROUNDS if len(binding) > 1 else 1):
        for number in binding:
            solver.multipliers[number] = 0.0
            if solver.excess(number) > 0:
                solver.solve(number, 0.0, _LARGEST)
    if binding and not any(solver.multipliers):
        solver.solve(max(binding, key=solver.excess), -_LARGEST, 0.0)
    return solver.bounded().to(theta), solver.multipliers


class _Solver:
    """Multipliers in the making."""

    def __init__(self, theta: torch.Tensor, mask: torch.Tensor, constraints: Sequence[Steered]) -> None:
        self._theta, self._mask, self._constraints = theta, mask, constraints
        self.multipliers = [0.0] * len(constraints)

    def bounded(self) -> torch.Tensor:
        theta = self._theta
        for multiplier, item in zip(self.multipliers, self._constraints, strict=True):
            theta = theta - multiplier * item.cells / item.constraint.bound
        return theta

    def excess(self, number: int) -> float:
        """How far the mean cost is above the aim of one constraint, as a share of it."""
        item = self._constraints[number]
        probabilities = self.bounded().masked_fill(~self._mask, -math.inf).softmax(dim=1)
        return float(item.controller.excess(item.expected(probabilities)))

    def solve(self, number: int, low: float, high: float) -> None:
        """Sets one multiplier, between two numbers, so that the mean cost is its aim; a higher one lowers it."""
        for _ in range(_BISECTIONS):
            self.multipliers[number] = (low + high) / 2
            if self.excess(number) > 0:
                low = self.multipliers[number]
            else:
                high = self.multipliers[number]
