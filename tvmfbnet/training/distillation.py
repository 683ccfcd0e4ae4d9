"""Knowledge distillation (Hinton et al. 2015): a trained net whose outputs a training learns from, beside the labels.

That net is a ``net.pt`` of an earlier training, or a model of timm's: ``timm:NAME`` with the weights that timm
publishes (fetched once, then from its cache), ``timm:NAME,FILE`` with those of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import UserError
from tvmfbnet.files import checksum
from tvmfbnet.nets.precision import Precision, computing_in
from tvmfbnet.training.config import TIMM, TrainConfig
from tvmfbnet.training.device import place_net


class Distillation:
    """A trained net and how much it counts.

    Args:
        net: images to logits; it is not changed.
        weight: of its loss, between 0 and 1; the labels have the rest.
        temperature: that both outputs are softened by.
        precision: it computes in.
    """

    def __init__(self, net: nn.Module, weight: float, temperature: float, precision: Precision) -> None:
        self.net = net.eval().requires_grad_(False)
        self._weight, self._temperature, self._precision = weight, temperature, precision

    @torch.no_grad()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Its outputs (n, classes) for images (n, c, h, w)."""
        with computing_in(self._precision, pixels.device):
            return self.net(pixels).float()  # type: ignore[no-any-return]

    def loss(self, loss: torch.Tensor, logits: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The loss on the labels, mixed with that on the trained net's outputs.

        The latter is the Kullback-Leibler divergence of the softened outputs, times the temperature squared, so that
        its gradient keeps its size (Hinton et al., section 2.1).

        Args:
            loss: on the labels; a scalar.
            logits: of the net that learns (n, classes).
            pixels: that it saw (n, c, h, w).
        """
        own, theirs = (F.log_softmax(values / self._temperature, dim=1) for values in (logits, self.logits(pixels)))
        divergence = F.kl_div(own, theirs, reduction="batchmean", log_target=True) * self._temperature**2
        return (1 - self._weight) * loss + self._weight * divergence


def load_distillation(
    config: TrainConfig, data: ImageData, device: torch.device, precision: Precision
) -> Distillation | None:
    """The net to distil from that a training names; None where it names none.

    Raises:
        UserError: timm has no such model, or its weights cannot be had; or it takes other images or other classes.
        StorageError: the file is missing or damaged.
    """
    if config.distil_from is None:
        return None
    net = _net(config.distil_from, data)
    channels, height, width = data.train.load(torch.arange(1), Augment(), None).shape[1:]
    try:
        with torch.no_grad():
            shape = tuple(net.eval()(torch.zeros(2, channels, height, width)).shape)
    except (RuntimeError, AssertionError) as error:
        what = f"takes no {channels}x{height}x{width} images ({' '.join(str(error).split())[:200]})"
        raise UserError(f"distil_from: {config.distil_from} {what}") from error
    if shape != (2, data.classes):
        told = shape[1] if len(shape) == 2 else list(shape)
        what = f"tells {told} classes apart, the data set has {data.classes}"
        raise UserError(f"distil_from: {config.distil_from} {what}")
    return Distillation(place_net(net, device), config.distil_weight, config.distil_temperature, precision)


def distilled_identity(config: TrainConfig) -> dict[str, Any]:
    """What a training's identity says of the net that it distils from: the content of its file; nothing without one.

    Raises:
        StorageError: the file cannot be read.
    """
    _, file = _parts(config.distil_from or "")
    return {} if file is None else {"distilled": checksum(file)}


def _parts(spec: str) -> tuple[str | None, Path | None]:
    """Name of timm's model and file of weights, either of which may be missing."""
    if not spec.startswith(TIMM):
        return None, Path(spec) if spec else None
    name, _, file = spec.removeprefix(TIMM).partition(",")
    return name, Path(file) if file else None


def _net(spec: str, data: ImageData) -> nn.Module:
    name, file = _parts(spec)
    if name is None:
        from tvmfbnet.training.train import load_net  # which trains by what is above

        return load_net(Path(spec))[0]
    import timm

    if not timm.is_model(name):
        raise UserError(f"distil_from: timm has no model {name!r}")
    channels = len(data.mean)
    try:
        if file is not None:
            net: nn.Module = timm.create_model(
                name, num_classes=data.classes, in_chans=channels, checkpoint_path=str(file)
            )
            return net
        net = timm.create_model(name, pretrained=True, in_chans=channels)
    except Exception as error:  # timm and what it fetches with raise many kinds
        what = " ".join(str(error).split())[:300]
        raise UserError(f"distil_from: the weights of {spec} cannot be loaded: {what}") from error
    settings: Any = net.pretrained_cfg
    return Renormalised(net, data, settings["mean"], settings["std"])


class Renormalised(nn.Module):
    """A model that was trained on images of another mean and deviation than the data set is normalised by.

    Args:
        net: images to logits.
        data: the data set.
        mean: of each channel that the model was trained with, for pixels in 0..1.
        std: their deviation.
    """

    factor: torch.Tensor
    offset: torch.Tensor

    def __init__(self, net: nn.Module, data: ImageData, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        theirs = [_by_channel(values, len(data.mean)) for values in (mean, std)]
        own = [_by_channel(values, len(data.mean)) for values in (data.mean, data.std)]
        self.register_buffer("factor", own[1] / theirs[1])
        self.register_buffer("offset", (own[0] - theirs[0]) / theirs[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images as the data set normalises them (n, c, h, w) to logits."""
        return self.net(x * self.factor + self.offset)  # type: ignore[no-any-return]


def _by_channel(values: Sequence[float], channels: int) -> torch.Tensor:
    """(1, channels, 1, 1); the mean of all where a model was made for colour and the data set has none."""
    tensor = torch.tensor(values, dtype=torch.float32)
    return (tensor if len(tensor) == channels else tensor.mean().expand(channels)).view(1, -1, 1, 1)
