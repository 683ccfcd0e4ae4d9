"""Weights to and from timm: ``ArchNet`` of ``fbnet_c`` with 1984 last channels is timm's ``fbnetc_100``, one to one.

timm numbers blocks within a stage and leaves identity skips out; here a layer keeps its number and an identity skip
has no weights. Everything else is a renaming, so no weight is changed in either direction.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tvmfbnet.errors import ArchError
from tvmfbnet.nets.blocks import ConvBNReLU
from tvmfbnet.nets.network import ArchNet

_OUTER = {
    "stem.conv.": "conv_stem.",
    "stem.bn.": "bn1.",
    "head_conv.conv.": "conv_head.",
    "head_conv.bn.": "bn2.",
    "head_linear.": "classifier.",
}


def to_timm(state: Mapping[str, torch.Tensor], net: ArchNet) -> dict[str, torch.Tensor]:
    """Renames a state_dict of ``net`` to that of timm's ``EfficientNet`` with the same blocks."""
    return _renamed(state, timm_keys(net))


def from_timm(state: Mapping[str, torch.Tensor], net: ArchNet) -> dict[str, torch.Tensor]:
    """Renames a timm state_dict for ``net.load_state_dict``; ArchError if the two nets differ in structure."""
    return _renamed(state, {theirs: ours for ours, theirs in timm_keys(net).items()})


def timm_keys(net: ArchNet) -> dict[str, str]:
    """For each key of ``net.state_dict()`` its name in timm."""
    prefixes, position, stage = dict(_OUTER), 0, None
    for layer, module in zip(net.space.layers, net.layers, strict=True):
        if layer.stage != stage:
            position, stage = 0, layer.stage
        if not module.state_dict():
            continue
        place = f"blocks.{layer.stage - net.space.layers[0].stage}.{position}."
        prefixes[f"layers.{layer.index - net.space.layers[0].index}."] = place
        if isinstance(module, ConvBNReLU):  # a projecting skip: timm calls its norm bn1
            prefixes[f"layers.{layer.index - net.space.layers[0].index}.bn."] = place + "bn1."
        position += 1
    keys = {}
    for key in net.state_dict():
        prefix = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len)
        keys[key] = prefixes[prefix] + key.removeprefix(prefix)
    return keys


def _renamed(state: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    odd = sorted(set(state) ^ set(names))
    if odd:
        raise ArchError(f"the weights do not belong to this arch: {len(odd)} names differ, first {odd[0]}")
    return {names[key]: value for key, value in state.items()}
