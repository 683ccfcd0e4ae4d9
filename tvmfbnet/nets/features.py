"""A found net as the backbone of another model: the feature maps before each change of resolution, as timm gives them.

``feature_info`` is timm's own class, so what takes a timm backbone of ``features_only=True`` (detectors, segmentation
heads) takes this one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models import FeatureInfo
from torch import nn

from tvmfbnet.errors import UserError
from tvmfbnet.nets.network import ArchNet


class FeatureNet(nn.Module):
    """Stem and layers of a net, without its head.

    Attributes:
        feature_info: channels, reduction and module of each map, as timm's models have it.

    Args:
        net: whose modules it shares.
        out_indices: of the maps to give, from 0 in order of reduction, negative from the end; all if None.

    Raises:
        UserError: there is no such map.
    """

    def __init__(self, net: ArchNet, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        maps = _maps(net)
        wanted = range(len(maps)) if out_indices is None else out_indices
        odd = [index for index in wanted if not -len(maps) <= index < len(maps)]
        if odd or not wanted:
            raise UserError(f"out_indices {list(wanted)}: the net has feature maps 0 to {len(maps) - 1}")
        indices = tuple(sorted({index % len(maps) for index in wanted}))
        infos = [
            {"num_chs": channels, "reduction": reduction, "module": "stem" if last < 0 else f"layers.{last}"}
            for last, channels, reduction in maps
        ]
        self.feature_info = FeatureInfo(infos, indices)
        self.space = net.space
        self._ends = [maps[index][0] for index in indices]
        self.stem = net.stem
        self.layers = nn.ModuleList(list(net.layers)[: self._ends[-1] + 1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Images (N, channels, height, width) to maps (N, C, height / reduction, width / reduction), largest first."""
        x = self.stem(x)
        maps = [x] if -1 in self._ends else []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self._ends:
                maps.append(x)
        return maps


def _maps(net: ArchNet) -> list[tuple[int, int, int]]:
    """The last layer of each resolution (-1 for the stem), its channels and reduction, as in timm's EfficientNet."""
    layers = net.space.layers
    last, channels, reduction = -1, net.space.stem_channels, net.space.stem_stride
    maps = []
    for index, layer in enumerate(layers):
        if layer.stride > 1:
            maps.append((last, channels, reduction))
        last, channels, reduction = index, layer.cout, reduction * layer.stride
    return [*maps, (last, channels, reduction)]
