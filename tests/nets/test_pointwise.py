"""Strided 1x1 convs: torch's function and gradients, without its code that ends the process on CPUs with AVX2."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tvmfbnet.nets.pointwise import PointwiseConv, pointwise_conv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_it_computes_what_torch_computes(stride, size):
    # 16 channels: torch's own gradient is safe there.
    torch.manual_seed(0)
    x, weight = torch.randn(2, 16, size, size), torch.randn(24, 16, 1, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for conv in (lambda x, w: pointwise_conv(x, w, stride), lambda x, w: F.conv2d(x, w, None, stride)):
        leaves = [t.clone().requires_grad_() for t in (x, weight)]
        y = conv(*leaves)
        y.square().sum().backward()
        results.append([y, *(leaf.grad for leaf in leaves)])
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs)


def test_a_module_that_is_not_trained_is_the_plain_conv():
    conv = PointwiseConv(4, 8, 2).eval()
    x = torch.randn(1, 4, 7, 7)
    assert torch.equal(conv(x), F.conv2d(x, conv.weight, None, 2))


def test_few_channels_train_on_every_cpu():
    code = """
import torch
from tvmfbnet.nets.pointwise import PointwiseConv
conv, kept = PointwiseConv(4, 4, 2), []
for turn in range(200):
    y = conv(torch.randn(32, 4, 14, 14).contiguous(memory_format=torch.channels_last))
    y.backward(torch.randn_like(y))
    kept = [*kept, torch.randn(7 + turn % 50)][-50:]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
