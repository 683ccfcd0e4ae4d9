"""Numbers for each image: outputs (n, values) against targets (n, values), float32, each between about 0 and 1.

Accuracy is the coefficient of determination (R2): the share of the targets' variance that the net explains, the mean
over values. It is 0 for a net that always answers the mean, and counts as 0 below that.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tvmfbnet.tasks.chance import Chance
from tvmfbnet.tasks.task import Task

# Errors below weigh by their square, larger ones by their size: a few wild images do not rule the gradient.
_BETA = 0.1
# Answers of two nets that differ by less agree.
_CLOSE = 0.05


class Regression(Task):
    """Soft targets are another net's outputs."""

    name, metric = "regression", "R2"

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Smooth L1 (Huber) loss, the mean over images and values; there are no labels to smooth."""
        return F.smooth_l1_loss(outputs, targets, beta=_BETA)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Images, then for each value the sums of squared errors, of targets and of squared targets."""
        given, wanted = outputs.double().cpu(), targets.double().cpu()
        sums = torch.stack([((given - wanted) ** 2).sum(dim=0), wanted.sum(dim=0), (wanted**2).sum(dim=0)])
        return torch.cat([torch.tensor([len(wanted)], dtype=torch.float64), sums.flatten()])

    def accuracy(self, tally: torch.Tensor) -> float:
        """R2, at least 0; a value that all images share is not counted."""
        errors, sums, squares = tally[1:].view(3, -1)
        spread = squares - sums**2 / tally[0]
        varied = spread > 1e-9 * tally[0]
        if not bool(varied.any()):
            return 0.0
        return max(0.0, float((1 - errors[varied] / spread[varied]).mean()))

    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs."""
        return outputs

    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """The mean of both."""
        return (targets + soft) / 2

    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """The share of values that differ by less than 0.05."""
        return ((outputs - others).abs() < _CLOSE).double().mean(dim=1).cpu()

    def chance(self, targets: torch.Tensor) -> Chance:
        """Of always answering the mean."""
        return Chance(0.0, len(targets), "always the mean")


TASK = Regression()
