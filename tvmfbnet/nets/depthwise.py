"""Depthwise convs whose gradients are computed fast on CPUs: the same function as torch's, and the same gradients.

oneDNN, on which torch's CPU convs rest, has fast code for a depthwise conv's weight gradient only where the kernel is
at most three columns wide and padded by at most one (96 channels of 16x16, 64 images: 0.8 ms for 5x3, 12 ms for 5x5).
A wider kernel is therefore taken apart into groups of three columns. Columns next to each other are an ordinary narrow
conv. Every second column is one too, if the image is seen as half as wide with twice the channels: with channels last
that is the same memory. The gradient of the input of a conv without stride is a forward conv with the kernel turned
round, for which there is fast code for every size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.nets.precision import is_autocast

_THREE = 3


class DepthwiseConv(nn.Conv2d):
    """A depthwise conv with an odd square kernel, padded to keep the size, without bias."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s))."""
        if self.training and self.bias is None:
            return depthwise_conv(x, self.weight, self.stride[0])
        return super().forward(x)


def depthwise_conv(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """A depthwise conv that keeps the size (but for its stride), with fast gradients where possible.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k odd.
        stride: in both directions.
    """
    if not torch.is_grad_enabled() or x.device.type != "cpu" or not _is_channels_last(x) or is_autocast(x):
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))
    y: torch.Tensor = _Depthwise.apply(x, weight, stride)
    return y


def _is_channels_last(x: torch.Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


class _Depthwise(torch.autograd.Function):
    """The conv with its two gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x, weight = ctx.saved_tensors
        y_grad = gradients[0].contiguous(memory_format=torch.channels_last)
        x_grad = input_gradient(x, weight, y_grad, ctx.stride) if ctx.needs_input_grad[0] else None
        weight_grad = weight_gradient(x, y_grad, weight.shape[-1], ctx.stride) if ctx.needs_input_grad[1] else None
        return x_grad, weight_grad, None


def input_gradient(x: torch.Tensor, weight: torch.Tensor, y_grad: torch.Tensor, stride: int) -> torch.Tensor:
    """The input's gradient for a depthwise conv that keeps the size (but for its stride), like ``x``; channels last."""
    if stride == 1:
        turned = weight.flip(2, 3).contiguous(memory_format=torch.channels_last)
        return F.conv2d(y_grad, turned, None, 1, weight.shape[-1] // 2, groups=len(weight))
    pad = weight.shape[-1] // 2
    wanted = (True, False, False)
    gradient: torch.Tensor = torch.ops.aten.convolution_backward(
        y_grad, x, weight, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], len(weight), wanted
    )[0]
    return gradient


def weight_gradient(x: torch.Tensor, y_grad: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """The weight's gradient for the same conv: (C, 1, kernel, kernel)."""
    channels, pad = x.shape[1], kernel // 2
    rows = pad
    if x.shape[2] < kernel + pad:  # few rows: oneDNN's fast code does not pad them
        x, rows = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, pad, pad)).permute(0, 3, 1, 2), 0
    if kernel <= _THREE:
        return _narrow(x, y_grad, (kernel, kernel), (stride, stride), (rows, pad))
    if stride == 2 and x.shape[3] % 2 == 0 and kernel == 5:
        # Output column w takes input columns 2w - 2 to 2w + 2: of the even ones three, of the odd ones two.
        halved, doubled = _half_as_wide(x), torch.cat([y_grad, y_grad], dim=1)
        even_then_odd = _narrow(halved, doubled, (kernel, _THREE), (2, 1), (rows, 1))
        even, odd = even_then_odd[:channels], even_then_odd[channels:]
        return torch.cat([even[..., :1], odd[..., :1], even[..., 1:2], odd[..., 1:2], even[..., 2:]], dim=3)
    if stride > 1:
        return _narrow(x, y_grad, (kernel, kernel), (stride, stride), (rows, pad))
    columns = dict(zip((-1, 0, 1), _narrow(x, y_grad, (kernel, _THREE), (1, 1), (rows, 1)).unbind(3), strict=True))
    if x.shape[3] % 2 == 0:
        both = _narrow(_half_as_wide(x), _half_as_wide(y_grad), (kernel, _THREE), (1, 1), (rows, 1))
        even_odd = (both[:channels] + both[channels:]).unbind(3)
        columns.update({-2: even_odd[0], 2: even_odd[2]})
    for offset in set(range(-pad, pad + 1)) - set(columns):
        columns[offset] = _column(x, y_grad, kernel, rows, offset)
    return torch.stack([columns[offset] for offset in range(-pad, pad + 1)], dim=3)


def _half_as_wide(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) as (N, 2C, H, W/2): even columns in the first channels, odd ones in the others; no copy."""
    count, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(count, height, width // 2, 2 * channels).permute(0, 3, 1, 2)


def _column(x: torch.Tensor, y_grad: torch.Tensor, kernel: int, rows: int, offset: int) -> torch.Tensor:
    """One column of the weight gradient of a conv without stride: (C, 1, kernel)."""
    width = x.shape[3]
    if abs(offset) >= width:
        return x.new_zeros(x.shape[1], 1, kernel)
    inputs = x[..., max(offset, 0) : width + min(offset, 0)].contiguous(memory_format=torch.channels_last)
    outputs = y_grad[..., max(-offset, 0) : width - max(offset, 0)].contiguous(memory_format=torch.channels_last)
    return _narrow(inputs, outputs, (kernel, 1), (1, 1), (rows, 0))[..., 0]


def _narrow(
    x: torch.Tensor, y_grad: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], pad: tuple[int, int]
) -> torch.Tensor:
    """torch's weight gradient (C, 1, *kernel) of a depthwise conv."""
    shape = x.new_empty(x.shape[1], 1, *kernel)
    wanted = (False, True, False)
    gradient: torch.Tensor = torch.ops.aten.convolution_backward(
        y_grad, x, shape, None, list(stride), list(pad), [1, 1], False, [0, 0], x.shape[1], wanted
    )[1]
    return gradient
