"""What a task is: the loss of a net's outputs, and how accurate they are.

Outputs are the net's, one tensor (n, ...) in float32; targets are what the data set says of the images, (n, ...). An
accuracy lies between 0 and 1 and is better the higher, whatever the task calls it: so searches rank archs the same way
in all of them. It follows from a *tally*, mostly a vector of sums over images, so tallies of batches and of several
processes are added to that of the whole set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from tvmfbnet.tasks.chance import Chance


class Task(ABC):
    """A task; holds no state."""

    name: str
    """As in files and in the specs of data sets."""

    metric: str
    """What its accuracy is called, for people."""

    distils: bool = True
    """Whether the targets of a data set and a net's outputs have a mean to learn from (:meth:`mixed`)."""

    def joined(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The outputs of an exported net as the one tensor that :meth:`tally` and :meth:`agreement` take."""
        (output,) = outputs
        return output

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """The mean loss over images, scalar.

        Args:
            outputs: the net's.
            targets: of the data set, or :meth:`soft` ones.
            smoothing: share of a label that is spread over all labels, where the task has some.
        """

    @abstractmethod
    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What :meth:`accuracy` follows from, float64, on the CPU: sums (k,), unless the task says otherwise."""

    def added(self, tallies: Sequence[torch.Tensor]) -> torch.Tensor:
        """The tally of all images of several tallies, at least one."""
        return torch.stack(list(tallies)).sum(dim=0)

    @abstractmethod
    def accuracy(self, tally: torch.Tensor) -> float:
        """The accuracy over all images of a tally, between 0 and 1."""

    def batch_accuracy(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """The accuracy on one batch."""
        return self.accuracy(self.tally(outputs.detach(), targets))

    @abstractmethod
    def soft(self, outputs: torch.Tensor) -> torch.Tensor:
        """What another net may learn from a net's outputs, in place of targets; as detached as ``outputs``."""

    def distilled_loss(self, outputs: torch.Tensor, others: torch.Tensor, temperature: float) -> torch.Tensor:
        """The loss of a net's outputs on another's, scalar; ``temperature`` softens both, where the task can use it."""
        return self.loss(outputs, self.soft(others))

    @abstractmethod
    def mixed(self, targets: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """The mean of a data set's targets and :meth:`soft` ones."""

    @abstractmethod
    def agreement(self, outputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """How far the answers of two nets agree: a share for each image, float64 (n,)."""

    @abstractmethod
    def chance(self, targets: torch.Tensor) -> Chance:
        """The accuracy of a net that learned nothing about the images."""
