"""The trained net that another learns from (``distil_from``), in trainings and in searches: loaded, and checked to fit.

It is a ``net.pt`` of an earlier training, or a model of timm's: ``timm:NAME`` with the weights that timm publishes
(fetched once, then from its cache), ``timm:NAME,FILE`` with those of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import UserError
from tvmfbnet.files import checksum
from tvmfbnet.training.config import TIMM
from tvmfbnet.training.device import place_net


def load_distilled_net(spec: str, data: ImageData, device: torch.device) -> nn.Module:
    """A trained net in evaluation mode, which takes no gradients.

    Args:
        spec: which.
        data: what the other net learns from; says the images' size, the task and its classes.
        device: where it computes.

    Raises:
        UserError: timm has no such model, or its weights cannot be had; or it takes other images, tells other classes
            apart, or was trained for another task.
        StorageError: the file is missing or damaged.
    """
    shape = tuple(data.train.load(torch.arange(1), Augment(), None).shape[1:])
    net = _net(spec, data, shape).eval().requires_grad_(False)
    try:
        with torch.no_grad():
            given = tuple(net(torch.zeros(2, *shape)).shape)
    except (RuntimeError, AssertionError) as error:
        what = f"takes no {_size(shape)} images ({' '.join(str(error).split())[:200]})"
        raise UserError(f"distil_from: {spec} {what}") from error
    if len(given) == 2 and given != (2, data.classes):
        raise UserError(f"distil_from: {spec} tells {given[1]} classes apart, the data set has {data.classes}")
    return place_net(net, device)


def distilled_digest(spec: str) -> str | None:
    """The content of the file of a net to distil from; None where timm publishes its weights.

    Raises:
        StorageError: the file cannot be read.
    """
    _, file = _parts(spec)
    return None if file is None else checksum(file)


def _parts(spec: str) -> tuple[str | None, Path | None]:
    """Name of timm's model and file of weights, either of which may be missing."""
    if not spec.startswith(TIMM):
        return None, Path(spec) if spec else None
    name, _, file = spec.removeprefix(TIMM).partition(",")
    return name, Path(file) if file else None


def _net(spec: str, data: ImageData, shape: Sequence[int]) -> nn.Module:
    name, file = _parts(spec)
    if name is None:
        return _trained_net(spec, data, shape)
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


def _trained_net(spec: str, data: ImageData, shape: Sequence[int]) -> nn.Module:
    """The net of a ``net.pt``, which says what it was trained for."""
    from tvmfbnet.training.train import load_net  # which trains by what is here

    net, about = load_net(Path(spec))
    if about["task"] != data.task:
        raise UserError(f"distil_from: {spec} was trained for {about['task']}, the data set is for {data.task}")
    own = (net.space.input_channels, net.space.height, net.space.width)
    if own != tuple(shape) or net.space.classes != data.classes:
        raise UserError(
            f"distil_from: {spec} is for {_size(own)} images and {net.space.classes} classes, the data set has "
            f"{_size(shape)} and {data.classes}"
        )
    return net


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


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
