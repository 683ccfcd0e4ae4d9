"""The pieces that every net is made of, as torch modules: one builder for each measurable part of a space.

The same modules make the supernet, the found net and the single blocks that are exported and timed, so a latency
measured for a part is the latency of what later runs. Block structure: FBNet (arXiv 1812.03443), section 3.1.
Submodule names follow timm's (``conv_pw``, ``bn1``, ...), which makes the parity with ``fbnetc_100`` one to one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tvmfbnet.nets.depthwise import DepthwiseConv
from tvmfbnet.nets.own_blocks import build_own
from tvmfbnet.nets.pointwise import PointwiseConv
from tvmfbnet.space.blocks import BlockSpec, NarrowedSpec, parse_block
from tvmfbnet.space.own_blocks import OwnBlock
from tvmfbnet.space.space import NetPart


class ChannelShuffle(nn.Module):
    """Interleaves the channels of ``groups`` groups, so that the next grouped conv sees all of them.

    In and out (N, C, H, W). Written with plain reshapes, which every exporter understands. They would turn images
    that are channels last to channels first, and with them the rest of the net, at several times the cost.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shuffles the channels of (N, C, H, W)."""
        batch, channels, height, width = x.shape
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            last = x.permute(0, 2, 3, 1).reshape(batch, height, width, self.groups, channels // self.groups)
            return last.transpose(3, 4).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        grouped = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(batch, channels, height, width)


class GlobalAveragePool(nn.Module):
    """Means over the pixels: (N, C, H, W) to (N, C). As a mean, which is one kernel with what TVM fuses into it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, C)."""
        return torch.flatten(x.mean(dim=(2, 3), keepdim=True), 1)


class ConvBNReLU(nn.Module):
    """A conv without bias, batch normalisation, ReLU. In (N, cin, H, W), out (N, cout, ceil(H/s), ceil(W/s))."""

    FOLDED = (("conv", "bn"),)

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv: nn.Conv2d = (
            PointwiseConv(cin, cout, stride)
            if kernel == 1
            else nn.Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
        )
        self.bn = nn.BatchNorm2d(cout)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, cin, H, W) to (N, cout, H', W')."""
        return self.act(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """Weights each channel by a number in 0..1 that is drawn from all channels' means over the image.

    Hu et al. 2018 with the hard sigmoid of Howard et al. 2019. In and out (N, C, H, W).
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def gates(self, means: torch.Tensor) -> torch.Tensor:
        """Channel means (N, C) to weights (N, C)."""
        return F.hardsigmoid(self.expand(F.relu(self.reduce(means))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weights the channels of (N, C, H, W)."""
        return x * self.gates(x.mean(dim=(2, 3)))[:, :, None, None]


class GatedConv(nn.Module):
    """A 1x1 conv with BN and ReLU, its channels weighted by what the whole map shows: LR-ASPP's branch of the last map.

    In (N, cin, H, W), out (N, cout, H, W).
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv, self.gate = ConvBNReLU(cin, cout, 1), nn.Linear(cin, cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, cin, H, W) to (N, cout, H, W)."""
        gates = self.gate(x.mean(dim=(2, 3))).sigmoid()
        return self.conv(x) * gates[:, :, None, None]  # type: ignore[no-any-return]


class BoxPredictor(nn.Module):
    """A depthwise 3x3 conv with BN and ReLU, then a 1x1 conv: SSDLite's answers for each place of a feature map.

    In (N, cin, H, W), out (N, cout, H, W).
    """

    FOLDED = (("conv_dw", "bn"),)

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv_dw, self.bn, self.act = DepthwiseConv(cin, 3, 1), nn.BatchNorm2d(cin), nn.ReLU(inplace=True)
        self.answers = nn.Conv2d(cin, cout, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, cin, H, W) to (N, cout, H, W)."""
        return self.answers(self.act(self.bn(self.conv_dw(x))))  # type: ignore[no-any-return]


def activation(name: str) -> nn.Module:
    """The module of an activation of :data:`tvmfbnet.space.blocks.ACTIVATIONS`."""
    kinds = {"relu": nn.ReLU, "hswish": nn.Hardswish, "swish": nn.SiLU}
    return kinds[name](inplace=True)


class InvertedResidual(nn.Module):
    """1x1 conv (expand), k x k depthwise conv, 1x1 conv (project); identity added when the shape stays the same.

    The first 1x1 conv is there also when the expansion is 1; with groups a channel shuffle follows it. No ReLU after
    the projection nor after the addition (FBNet, figure 3). Squeeze-and-excitation, where the block has it, stands
    between depthwise conv and projection.
    """

    FOLDED = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))

    def __init__(self, spec: BlockSpec | NarrowedSpec, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        middle = spec.inner(cin)
        self.conv_pw = nn.Conv2d(cin, middle, 1, groups=spec.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.act1 = activation(spec.activation)
        self.shuffle = ChannelShuffle(spec.groups) if spec.groups > 1 else nn.Identity()
        self.conv_dw = DepthwiseConv(middle, spec.kernel, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.act2 = activation(spec.activation)
        self.se = SqueezeExcite(middle, spec.squeezed(cin)) if spec.squeeze_excite else nn.Identity()
        self.conv_pwl = nn.Conv2d(middle, cout, 1, groups=spec.groups, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.has_residual = stride == 1 and cin == cout

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """All but the addition of the input."""
        y = self.shuffle(self.act1(self.bn1(self.conv_pw(x))))
        y = self.se(self.act2(self.bn2(self.conv_dw(y))))
        return self.bn3(self.conv_pwl(y))  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, cin, H, W) to (N, cout, ceil(H/s), ceil(W/s))."""
        y = self.branch(x)
        # In this order: the compiler takes the layout of the sum from its first operand, the conv's output.
        return y + x if self.has_residual else y


class FBNetBlock(InvertedResidual):
    """A block whose inner channels are a multiple of its input channels, so that a supernet can merge several."""

    def __init__(self, spec: BlockSpec, cin: int, cout: int, stride: int) -> None:
        super().__init__(spec, cin, cout, stride)
        self.spec = spec


# The module of each structure of :data:`tvmfbnet.space.blocks.STRUCTURES`, by the class of its blocks. One with batch
# norms says in ``FOLDED`` which of its convs each follows.
MODULES: dict[type, Callable[[Any, int, int, int], nn.Module]] = {BlockSpec: FBNetBlock, NarrowedSpec: InvertedResidual}


def build_block(block: str, cin: int, cout: int, stride: int) -> nn.Module:
    """The module of a candidate block, freshly initialised: a user's own as its builder does.

    ``skip`` is the identity where shapes allow, else 1x1 conv + BN + ReLU.
    """
    spec = parse_block(block)
    if isinstance(spec, OwnBlock):
        return build_own(spec, cin, cout, stride)
    if spec is not None:
        return initialise(MODULES[type(spec)](spec, cin, cout, stride))
    return nn.Identity() if stride == 1 and cin == cout else initialise(ConvBNReLU(cin, cout, 1, stride))


def build_part(part: NetPart) -> nn.Module:
    """The module of one measurable part of a net, freshly initialised.

    Every part maps (N, cin, H, W) to (N, cout, H', W'), except ``head_pool``, which gives (N, cout), and
    ``head_linear``, which takes that: see :func:`input_shape`.
    """
    match part.part:
        case "stem":
            return initialise(ConvBNReLU(part.cin, part.cout, 3, part.stride))
        case "block":
            return build_block(part.block, part.cin, part.cout, part.stride)
        case "head_conv":
            return initialise(ConvBNReLU(part.cin, part.cout, 1, part.stride))
        case "head_pool":
            return GlobalAveragePool()
        case "head_linear":
            return initialise(nn.Linear(part.cin, part.cout))
        case "head_aspp":
            return initialise(GatedConv(part.cin, part.cout))
        case "head_logits":
            return initialise(nn.Conv2d(part.cin, part.cout, 1))
        case "head_boxes":
            return initialise(BoxPredictor(part.cin, part.cout))
        case "head_resize":
            return nn.Upsample(scale_factor=part.stride, mode="bilinear", align_corners=False)
        case _:
            raise ValueError(f"no module for part {part.part!r}")


def input_shape(part: NetPart, batch: int = 1) -> tuple[int, ...]:
    """The shape of a part's input: (batch, cin, height, width), or (batch, cin) for ``head_linear``."""
    if part.part == "head_linear":
        return (batch, part.cin)
    return (batch, part.cin, part.height, part.width)


def initialise(module: nn.Module) -> nn.Module:
    """Initialises in place and returns ``module``: He et al. 2015, fan-out, for convs; a small normal for linear."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            fan_out = child.kernel_size[0] * child.kernel_size[1] * child.out_channels // child.groups
            nn.init.normal_(child.weight, 0.0, (2.0 / fan_out) ** 0.5)
        elif isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, 0.0, 0.01)
            nn.init.zeros_(child.bias)
    return module
