"""1x1 convs with a stride, trained without oneDNN's code for them, which writes beyond its memory.

oneDNN 3.12 (torch 2.14) ends the process while it computes the weight gradient of a strided 1x1 conv of fewer than
eight input channels on a CPU with AVX2 and no AVX-512. Taking every second pixel first is the same function, and
cheaper.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class PointwiseConv(nn.Conv2d):
    """A 1x1 conv without bias."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__(cin, cout, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, cin, H, W) to (N, cout, ceil(H/s), ceil(W/s))."""
        if self.training and self.bias is None:
            return pointwise_conv(x, self.weight, self.stride[0])
        return super().forward(x)


def pointwise_conv(
    x: torch.Tensor, weight: torch.Tensor, stride: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """A 1x1 conv that can be trained.

    Args:
        x: (N, cin, H, W).
        weight: (cout, cin, 1, 1).
        stride: in both directions.
        bias: (cout,).
    """
    return F.conv2d(x if stride == 1 else x[:, :, ::stride, ::stride], weight, bias)
