"""What follows the last layer: the classifier, LR-ASPP for one answer per place of an image, or SSDLite for boxes.

**Classifier**: a 1x1 conv, the global average pool, a fully connected layer.

**LR-ASPP** (Howard et al. 2019, "Searching for MobileNetV3", section 6.3): a 1x1 conv of the last feature map, weighted
per channel by a gate that sees the whole map, then a 1x1 conv to logits. Logits are enlarged step by step, and at each
step those that a 1x1 conv makes of a finer feature map are added: the paper has one finer map, and here are up to two,
as in FCN-8s (Long et al. 2015). Convs come before enlarging, which is the same function at a fraction of the cost.
Outputs stay at the finest of these maps; whoever shows them enlarges them.

**SSDLite** (Liu et al. 2016, "SSD"; Sandler et al. 2018, section 6.2): on the same feature maps a depthwise 3x3 conv
and a 1x1 conv, which gives for each of four anchors per place the logits of the classes and four offsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tvmfbnet.errors import UserError

if TYPE_CHECKING:
    from tvmfbnet.space.space import NetPart, Space

CLASSIFIER, LRASPP, SSDLITE = "classifier", "lraspp", "ssdlite"
HEADS = (CLASSIFIER, LRASPP, SSDLITE)
# Outputs of exported and compiled nets, in order; of SSDLite as :meth:`tvmfbnet.nets.heads.SsdliteHead.exported` says.
SCORES, BOXES = "scores", "boxes"
_OUTPUTS = {SSDLITE: (SCORES, BOXES)}
_ONE_OUTPUT = ("output",)

# Parts that LR-ASPP has in place of the classifier's; a resize has the factor as its stride.
HEAD_ASPP, HEAD_LOGITS, HEAD_RESIZE = "head_aspp", "head_logits", "head_resize"
# The part that SSDLite has for each feature map, and the anchors of a place.
HEAD_BOXES, ANCHORS = "head_boxes", 4
# Side of the smallest anchors as a share of the image's; those of all maps divide the way to 1.
_SMALLEST = 0.15
# Channels of the gated map, and the most and the finest of the feature maps besides the last one.
ASPP_CHANNELS, FINER_MAPS, FINEST_STRIDE = 128, 2, 4


def output_names(head_kind: str) -> tuple[str, ...]:
    """The names of the outputs of exported and compiled nets with a head, in order."""
    return _OUTPUTS.get(head_kind, _ONE_OUTPUT)


@dataclass(frozen=True)
class FeatureMap:
    """The last feature map of one size: what stem or layers give before the next stride.

    Attributes:
        layer: index of the layer that gives it; -1 for the stem.
        channels, height, width: its shape.
        stride: pixels of the image for one of the map.
    """

    layer: int
    channels: int
    height: int
    width: int
    stride: int


def feature_maps(space: Space) -> tuple[FeatureMap, ...]:
    """The feature maps of a backbone, finest first; the last one is what the head takes."""
    stride = space.stem_stride
    maps = [FeatureMap(-1, space.stem_channels, space.stem.out_height, space.stem.out_width, stride)]
    for position, layer in enumerate(space.layers):
        stride *= layer.stride
        height, width = math.ceil(layer.height / layer.stride), math.ceil(layer.width / layer.stride)
        made = FeatureMap(position, layer.cout, height, width, stride)
        maps = [*(maps[:-1] if stride == maps[-1].stride else maps), made]
    return tuple(maps)


def head_maps(space: Space) -> tuple[FeatureMap, ...]:
    """The feature maps that the head takes, coarsest first."""
    *finer, last = feature_maps(space)
    if space.head_kind == CLASSIFIER:
        return (last,)
    chosen = [each for each in finer if each.stride >= FINEST_STRIDE][-FINER_MAPS:]
    return (last, *reversed(chosen))


def head_parts(space: Space) -> tuple[NetPart, ...]:
    """The measurable parts of the head, in order of execution.

    Raises:
        UserError: LR-ASPP cannot enlarge maps of these sizes by whole factors.
    """
    from tvmfbnet.space.space import HEAD_CONV, HEAD_LINEAR, HEAD_POOL, NetPart

    maps = head_maps(space)
    last, channels, classes = maps[0], space.last_channels, space.classes
    if space.head_kind == CLASSIFIER:
        return (
            NetPart(HEAD_CONV, "conv_k1", last.channels, channels, last.height, last.width, 1),
            NetPart(HEAD_POOL, "avgpool", channels, channels, last.height, last.width, 1),
            NetPart(HEAD_LINEAR, "linear", channels, classes, 1, 1, 1),
        )
    if space.head_kind == SSDLITE:
        outputs = ANCHORS * (classes + 4)
        return tuple(
            NetPart(HEAD_BOXES, "ssdlite", each.channels, outputs, each.height, each.width, 1) for each in maps
        )
    require_whole_factors(space)
    parts = [
        NetPart(HEAD_ASPP, "gated_k1", last.channels, ASPP_CHANNELS, last.height, last.width, 1),
        NetPart(HEAD_LOGITS, "conv_k1", ASPP_CHANNELS, classes, last.height, last.width, 1),
    ]
    for coarse, fine in pairwise(maps):
        factor = coarse.stride // fine.stride
        parts.append(NetPart(HEAD_RESIZE, "bilinear", classes, classes, coarse.height, coarse.width, factor))
        parts.append(NetPart(HEAD_LOGITS, "conv_k1", fine.channels, classes, fine.height, fine.width, 1))
    return tuple(parts)


def anchors_of(space: Space) -> list[tuple[float, float, float, float]]:
    """SSDLite's anchors in the order of its answers: centre and size, as shares of the image's width and height.

    Each place has a square, a larger one on the way to the next map's, and one of twice the width or height each (SSD,
    section 2.2). Sides grow by one factor from square to square: SSD's six maps can have them at equal differences,
    but with those of two or three maps, boxes between two sides would overlap neither square by half.
    """
    maps, boxes = head_maps(space), list[tuple[float, float, float, float]]()
    factor = _SMALLEST ** (-1 / len(maps))
    for number, each in enumerate(maps):  # coarsest first
        side = factor ** -(number + 1)
        larger = side * math.sqrt(factor)
        long, short = side * math.sqrt(2), side / math.sqrt(2)
        shapes = ((side, side), (larger, larger), (long, short), (short, long))
        for row in range(each.height):
            for column in range(each.width):
                centre = ((column + 0.5) / each.width, (row + 0.5) / each.height)
                boxes += [(*centre, *shape) for shape in shapes]
    return boxes


def require_whole_factors(space: Space) -> None:
    """UserError where the image's sides are no multiples of the backbone's stride, which LR-ASPP needs."""
    stride = feature_maps(space)[-1].stride
    if space.height % stride or space.width % stride:
        near = "x".join(str(max(stride, round(side / stride) * stride)) for side in (space.height, space.width))
        raise UserError(
            f"the head {LRASPP} needs images whose sides are multiples of {stride}, the space's are "
            f"{space.height}x{space.width}; append `@{near}` to the space"
        )
