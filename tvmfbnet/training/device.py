"""Where torch computes: the choice of device, and moving a net or a batch there in the fastest memory format."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from tvmfbnet.errors import UserError

NetT = TypeVar("NetT", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """``auto`` (a CUDA GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``; UserError if the device does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no torch device {name!r} here; use cpu or auto") from error


def place_net(net: NetT, device: torch.device) -> NetT:
    """Moves a net to its device, channels last: about twice as fast for these nets on CPUs."""
    net.to(device=device)
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def place_pixels(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves images (N, C, H, W) to the device, channels last."""
    placed = pixels.to(device=device, memory_format=torch.channels_last)
    if placed.shape[1] > 1:
        return placed
    # With one channel both formats are the same memory, and torch takes it, and so all that is computed from it, for
    # the slow one unless the strides say otherwise.
    count, _, height, width = placed.shape
    return placed.contiguous().as_strided((count, 1, height, width), (height * width, 1, width, 1))


def place_batch(pixels: torch.Tensor, labels: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves a batch to the device, pixels channels last."""
    return place_pixels(pixels, device), labels.to(device)
