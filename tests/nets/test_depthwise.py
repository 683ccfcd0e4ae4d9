"""Depthwise convs: the same outputs and gradients as torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvmfbnet.nets.depthwise import DepthwiseConv, depthwise_conv


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (7, 7), (4, 4), (1, 1), (9, 6), (6, 9)])
def test_outputs_and_gradients_are_torchs(kernel, stride, height, width):
    generator = torch.Generator().manual_seed(kernel)
    x = torch.randn(3, 20, height, width, generator=generator, dtype=torch.float32)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(20, 1, kernel, kernel, generator=generator).requires_grad_()
    y = depthwise_conv(x, weight, stride)
    wanted = F.conv2d(x, weight, None, stride, kernel // 2, groups=20)
    assert torch.equal(y, wanted)
    gradient = torch.randn(y.shape, generator=generator)
    gradients = torch.autograd.grad(y, [x, weight], gradient)
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, [x, weight], gradient), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_only_the_gradients_that_are_asked_for_are_computed():
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    conv = DepthwiseConv(8, 5)
    conv.weight.requires_grad_(False)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None


def test_a_depthwise_conv_is_torchs_when_it_is_not_trained():
    conv = DepthwiseConv(8, 5, 2).eval()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, None, 2, 2, groups=8))
