"""A commented space file for an image size and a number of classes, to edit: ``tvmfbnet spaces new``."""

from __future__ import annotations

import math

# Channels of the stages that halve the image, in the manner of FBNet and MobileNetV3.
_WIDTHS = (24, 40, 80, 160, 240, 352)
# The last stage works on images of at least this size (pixels).
_LEAST_PIXELS = 4

_FILE = """\
# A search space for {height}x{width} images with {channels} channel(s) and {classes} classes. Change it at will;
# `tvmfbnet spaces show FILE.yaml` checks it and shows every layer.
description: "{height}x{width}, {channels} channel(s), {classes} classes"
input: {{channels: {channels}, height: {height}, width: {width}}}
classes: {classes}

# A 3x3 conv, batch norm and ReLU in front of everything. Not searched.
stem: {{channels: 16, stride: {stem_stride}}}

# channels: width of the stage's layers. layers: how many; each gets a block of its own in the search.
# stride: of the stage's first layer; 2 halves the image. A stage may have candidate `blocks: [...]` of its own.
stages:
{stages}

# The candidates of every layer: k<kernel>_e<expansion>. `_g2` splits the 1x1 convs into groups, `_se` adds
# squeeze-and-excitation, `_hswish` and `_swish` change the activation; `skip` leaves the layer out.
blocks: [k3_e1, k3_e3, k3_e6, k5_e1, k5_e3, k5_e6, skip]

# Width of the 1x1 conv before the average pool and the classifier. Not searched.
last_channels: {last_channels}
"""


def starter_space(classes: int, height: int, width: int, channels: int) -> str:
    """The text of a space file.

    Args:
        classes: what the classifier tells apart, at least 2.
        height, width: of the images, pixels.
        channels: of the images: 1 for greyscale, 3 for colour.
    """
    # How often the image is halved, the stem included.
    halvings = max(0, int(math.log2(min(height, width) / _LEAST_PIXELS)))
    widths = _WIDTHS[: max(0, halvings - 1)]
    rows = ["  - {channels: 16, layers: 1, stride: 1}"]
    rows += [f"  - {{channels: {width}, layers: 3, stride: 2}}" for width in widths]
    return _FILE.format(
        classes=classes,
        height=height,
        width=width,
        channels=channels,
        stem_stride=2 if halvings else 1,
        stages="\n".join(rows),
        last_channels=4 * (widths[-1] if widths else 32),
    )
