"""A trained net from whose outputs a supernet learns (Hinton et al. 2015): the setting ``distil_from``."""

from __future__ import annotations

from pathlib import Path

import torch

from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import ConfigError
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import task_named
from tvmfbnet.training.device import place_net
from tvmfbnet.training.train import load_net


def net_to_distil(path: Path, space: Space, data: ImageData, device: torch.device) -> ArchNet:
    """The net of a training's ``net.pt``, ready to teach.

    Args:
        path: the file.
        space: the search's; the net may be of another with the same images.
        data: the search's images.
        device: where it computes.

    Raises:
        StorageError: the file is missing or damaged.
        ConfigError: it takes other images, tells other classes apart, or was trained for another task.
    """
    net, about = load_net(path)
    own = (net.space.input_channels, net.space.height, net.space.width, net.space.classes)
    wanted = (space.input_channels, space.height, space.width, data.classes)
    if own != wanted:
        shape = "{0}x{1}x{2} images and {3} classes".format
        raise ConfigError(
            "search settings", [f"distil_from: {path} is for {shape(*own)}, the search for {shape(*wanted)}"]
        )
    if not task_named(data.task).distils:
        raise ConfigError("search settings", [f"distil_from: nets for {data.task} have no outputs to learn from so"])
    if about["task"] != data.task:
        raise ConfigError(
            "search settings", [f"distil_from: {path} was trained for {about['task']}, the search is for {data.task}"]
        )
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return place_net(net, device).eval()
