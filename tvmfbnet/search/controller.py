"""The latency target as a constraint on theta: an augmented Lagrangian, so that no trade-off is set by hand.

min over theta of CE subject to E[LAT] <= T, where E[LAT] is the mean latency of archs sampled from theta. With the
excess ``h = E[LAT] / T - 1`` the loss gets ``lambda h + mu h^2 / 2`` (Nocedal and Wright, *Numerical Optimization*,
eq. 17.36); lambda >= 0, the Lagrange multiplier, rises by ``mu h`` per epoch while the target is missed and falls
while it is met with room to spare. The square also pulls theta back up when it falls below the target: archs are chosen
from just under it, and theta should know those best. Cross entropy may still prefer faster nets, as the multiplier is
never negative.
"""

from __future__ import annotations

import torch

# Aim for a mean just below the target: the chosen arch lies at or under it.
AIM = 0.985
# Limits integral windup: far from the target the multiplier would grow until theta gets there, then overshoot.
_LARGEST_EXCESS = 0.1


class LatencyController:
    """The Lagrange multiplier of the latency constraint.

    Args:
        target_ms: largest latency of a net.
        strength: mu: how strongly an excess pulls, per unit of cross entropy.
        steps: theta's steps in an epoch.
    """

    def __init__(self, target_ms: float, strength: float, steps: int) -> None:
        self.target_ms, self.strength, self.steps = target_ms, strength, steps
        self.multiplier = 0.0

    def excess(self, expected_ms: torch.Tensor) -> torch.Tensor:
        """Relative excess of a mean latency over the aim; negative below it."""
        return expected_ms / (AIM * self.target_ms) - 1.0

    def term(self, expected_ms: torch.Tensor) -> torch.Tensor:
        """The penalty added to cross entropy, scalar."""
        excess = self.excess(expected_ms)
        return self.multiplier * excess + 0.5 * self.strength * excess.square()

    def update(self, expected_ms: float) -> None:
        """Updates the multiplier after a step of theta."""
        excess = expected_ms / (AIM * self.target_ms) - 1.0
        limited = max(-_LARGEST_EXCESS, min(_LARGEST_EXCESS, excess))
        self.multiplier = max(0.0, self.multiplier + self.strength * limited / self.steps)
