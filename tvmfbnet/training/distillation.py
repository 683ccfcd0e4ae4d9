"""Knowledge distillation (Hinton et al. 2015): a trained net whose outputs a training learns from, beside the labels.

Which net: :mod:`tvmfbnet.training.distilled_net`. What its outputs are worth as targets, the task says.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import UserError
from tvmfbnet.nets.precision import Precision, computing_in
from tvmfbnet.tasks import CLASSIFICATION, task_named
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.distilled_net import distilled_digest, load_distilled_net


class Distillation:
    """A trained net and how much it counts.

    Args:
        net: images to outputs of the task; it is not changed.
        weight: of its loss, between 0 and 1; the targets have the rest.
        temperature: that outputs are softened by, where the task does so.
        precision: it computes in.
        task: whose outputs these are.
    """

    def __init__(
        self, net: nn.Module, weight: float, temperature: float, precision: Precision, task: str = CLASSIFICATION
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self._weight, self._temperature, self._precision = weight, temperature, precision
        self._task = task_named(task)

    @torch.no_grad()
    def outputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Its outputs for images (n, c, h, w)."""
        with computing_in(self._precision, pixels.device):
            return self.net(pixels).float()  # type: ignore[no-any-return]

    def loss(self, loss: torch.Tensor, outputs: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The loss on the targets, mixed with that on the trained net's outputs.

        Args:
            loss: on the targets; a scalar.
            outputs: of the net that learns.
            pixels: that it saw (n, c, h, w).

        Raises:
            UserError: the nets answer for other places, of a map or of anchors.
        """
        theirs = self.outputs(pixels)
        if theirs.shape != outputs.shape:
            shapes = ["x".join(map(str, each.shape[1:])) for each in (theirs, outputs)]
            raise UserError(f"distil_from: that net's outputs are {shapes[0]} for an image, this net's {shapes[1]}")
        learned = self._task.distilled_loss(outputs, theirs, self._temperature)
        return (1 - self._weight) * loss + self._weight * learned


def load_distillation(
    config: TrainConfig, data: ImageData, device: torch.device, precision: Precision
) -> Distillation | None:
    """The net to distil from that a training names; None where it names none.

    Raises:
        UserError, StorageError: as of :func:`tvmfbnet.training.distilled_net.load_distilled_net`.
    """
    if config.distil_from is None:
        return None
    net = load_distilled_net(config.distil_from, data, device)
    return Distillation(net, config.distil_weight, config.distil_temperature, precision, data.task)


def distilled_identity(config: TrainConfig) -> dict[str, Any]:
    """What a training's identity says of the net that it distils from: the content of its file; nothing without one.

    Raises:
        StorageError: the file cannot be read.
    """
    digest = None if config.distil_from is None else distilled_digest(config.distil_from)
    return {} if digest is None else {"distilled": digest}
