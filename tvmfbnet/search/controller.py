"""A constraint on theta's mean arch: an augmented Lagrangian, so that no trade-off is set by hand.

min over theta of CE subject to E[C] <= B for every constraint, where E[C] is the mean cost (latency, parameters) of
archs sampled from theta and B its bound. With the excess ``h = E[C] / B - 1`` each constraint adds
``lambda h + mu h^2 / 2`` to the loss (Nocedal and Wright, *Numerical Optimization*, eq. 17.36); lambda >= 0, the
constraint's Lagrange multiplier, rises by ``mu h`` per epoch while the bound is exceeded and falls while it is met with
room to spare.

The square also pulls theta back up when it falls below the bound: archs are chosen from just under it, and theta should
know those best. Of several bounds often only one can be reached, so with several this pull comes from the one that is
nearest alone. Cross entropy may still prefer smaller nets, as the multiplier is never negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.losses import expected_cost

# Aim for a mean just below the bound: the chosen arch lies at or under it.
AIM = 0.985
# Limits integral windup: far from the bound the multiplier would grow until theta gets there, then overshoot.
_LARGEST_EXCESS = 0.1


class LagrangeController:
    """The Lagrange multiplier of one constraint.

    Args:
        bound: the most that a net may have.
        strength: mu: how strongly an excess pulls, per unit of cross entropy.
        steps: theta's steps in an epoch.
    """

    def __init__(self, bound: float, strength: float, steps: int) -> None:
        self.bound, self.strength, self.steps = bound, strength, steps
        self.multiplier = 0.0

    def excess(self, expected: torch.Tensor) -> torch.Tensor:
        """Relative excess of a mean cost over the aim; negative below it."""
        return expected / (AIM * self.bound) - 1.0

    def term(self, expected: torch.Tensor, pulls_up: bool = True) -> torch.Tensor:
        """The penalty added to cross entropy, scalar.

        Args:
            expected: mean cost of archs sampled from theta.
            pulls_up: whether the square also acts below the bound.
        """
        excess = self.excess(expected)
        if not pulls_up:
            return self.multiplier * excess + 0.5 * self.strength * excess.clamp_min(0.0).square()
        return self.multiplier * excess + 0.5 * self.strength * excess.square()

    def update(self, expected: float) -> None:
        """Updates the multiplier after a step of theta."""
        excess = expected / (AIM * self.bound) - 1.0
        limited = max(-_LARGEST_EXCESS, min(_LARGEST_EXCESS, excess))
        self.multiplier = max(0.0, self.multiplier + self.strength * limited / self.steps)


@dataclass(frozen=True)
class Steered:
    """A constraint that theta learns under: its cells where theta is, and its controller."""

    constraint: Constraint
    cells: torch.Tensor
    fixed: float
    controller: LagrangeController

    @classmethod
    def of(cls, constraint: Constraint, strength: float, steps: int, device: torch.device) -> Steered:
        """Of an additive constraint; TypeError for another one, which has no gradient.

        Args:
            constraint: the bound.
            strength, steps: as of :class:`LagrangeController`.
            device: theta's.
        """
        model = constraint.model
        if not isinstance(model, AdditiveCosts):
            raise TypeError(f"{constraint.quantity.name} does not add up over layers")
        controller = LagrangeController(constraint.bound, strength, steps)
        return cls(constraint, torch.tensor(model.padded()).to(device), model.fixed, controller)

    def expected(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Mean cost of archs sampled with these probabilities (layers, candidates), scalar."""
        return expected_cost(probabilities, self.cells, self.fixed)


def penalised(
    task_loss: torch.Tensor, controllers: Sequence[LagrangeController], expected: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The task's loss plus the terms of all constraints, scalar.

    Args:
        task_loss: scalar.
        controllers: one per constraint; at least one.
        expected: the mean cost that each of them bounds.
    """
    excesses = [float(item.excess(cost.detach())) for item, cost in zip(controllers, expected, strict=True)]
    nearest = excesses.index(max(excesses))
    loss = task_loss
    for index, (controller, cost) in enumerate(zip(controllers, expected, strict=True)):
        loss = loss + controller.term(cost, pulls_up=index == nearest)
    return loss


@dataclass(frozen=True)
class Steering:
    """All constraints that have a gradient, and those of them that theta learns under: all or, by the settings, none.

    Probabilities are always theta's, (layers, candidates).
    """

    bounded: tuple[Steered, ...]
    active: tuple[Steered, ...]

    @classmethod
    def of(cls, constraints: Sequence[Constraint], config: SearchConfig, steps: int, device: torch.device) -> Steering:
        """Of a search's constraints; ``steps`` are theta's in an epoch."""
        additive = [item for item in constraints if isinstance(item.model, AdditiveCosts)]
        bounded = tuple(Steered.of(item, config.target_strength, steps, device) for item in additive)
        return cls(bounded, () if config.mode == "penalty" else bounded)

    def penalised(self, task_loss: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Theta's loss, scalar."""
        expected = [steered.expected(probabilities) for steered in self.active]
        return penalised(task_loss, [steered.controller for steered in self.active], expected)

    def update(self, probabilities: torch.Tensor) -> None:
        """Updates all multipliers after a step of theta."""
        for steered in self.active:
            steered.controller.update(float(steered.expected(probabilities)))

    @property
    def multipliers(self) -> dict[str, float]:
        """The Lagrange multipliers by quantity."""
        return {steered.constraint.quantity.name: steered.controller.multiplier for steered in self.active}

    def restore(self, multipliers: Mapping[str, float | None]) -> None:
        """Goes back to saved multipliers; ValueError where one is missing."""
        for steered in self.active:
            multiplier = multipliers.get(steered.constraint.quantity.name)
            if multiplier is None:
                raise ValueError(f"the Lagrange multiplier of {steered.constraint.quantity.name} is missing")
            steered.controller.multiplier = multiplier

    def figures(self, probabilities: torch.Tensor, but: str) -> dict[str, float]:
        """Mean cost and Lagrange multiplier of every quantity except ``but``."""
        values = {}
        for steered in self.active:
            name = steered.constraint.quantity.name
            if name != but:
                values[f"expected_{name}"] = float(steered.expected(probabilities))
                values[f"{name}_multiplier"] = steered.controller.multiplier
        return values

    def largest_use(self, probabilities: torch.Tensor) -> float | None:
        """Mean cost as a share of the bound, of the constraint that is used most; None without constraints."""
        shares = [float(item.expected(probabilities)) / item.constraint.bound for item in self.bounded]
        return max(shares, default=None)
