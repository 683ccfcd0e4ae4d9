"""The trained net from whose outputs a supernet and short trainings learn (Hinton et al. 2015): ``distil_from``."""

from __future__ import annotations

import torch
from torch import nn

from tvmfbnet.data.images import ImageData
from tvmfbnet.errors import ConfigError
from tvmfbnet.tasks import task_named
from tvmfbnet.training.distilled_net import load_distilled_net


def net_to_distil(spec: str | None, data: ImageData, device: torch.device) -> nn.Module | None:
    """The net that a search's settings name; None where they name none.

    Targets and its outputs are averaged, where a training adds up two losses: so their mean must mean something.

    Raises:
        ConfigError: in this task it does not.
        UserError, StorageError: as of :func:`tvmfbnet.training.distilled_net.load_distilled_net`.
    """
    if spec is None:
        return None
    if not task_named(data.task).distils:
        raise ConfigError("search settings", [f"distil_from: nets for {data.task} have no outputs to learn from so"])
    return load_distilled_net(spec, data, device)
