"""A net of which single units (stem, blocks, head) stay in float32 while the others are quantised, as one QDQ model.

The model is what ONNX Runtime makes of the whole net with the float units excluded, so it runs there as it is. Its
metadata name the units, their dtypes and the tensors between them; :mod:`tvmfbnet.compiler.mixed_lowering` reads these.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy.typing as npt
import onnx
import torch
from torch import nn

from tvmfbnet.compiler.export import export_module, folded_in
from tvmfbnet.compiler.mixed_model import UNITS, UnitTensor, nodes_between
from tvmfbnet.dtypes import FLOAT32, INT8
from tvmfbnet.errors import UserError
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.space.borders import NetUnit, units_of
from tvmfbnet.space.heads import CLASSIFIER


class _BorderedNet(nn.Module):
    """A net that returns the tensors between its units after its own output."""

    def __init__(self, net: ArchNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        net = self.net
        borders = [net.stem(x)]
        for layer in net.layers:
            if not isinstance(layer, nn.Identity):
                borders.append(layer(borders[-1]))
        return net.head_linear(net.dropout(net.head_pool(net.head_conv(borders[-1])))), *borders


def export_mixed_net(net: ArchNet, floats: Collection[str], images: Sequence[npt.NDArray[Any]]) -> onnx.ModelProto:
    """Exports a net as :func:`tvmfbnet.compiler.export.export_net` does in int8, but for the float units.

    Args:
        net: the net.
        floats: names of the units that stay in float32.
        images: calibration images (1, C, H, W) as the net sees them in training.

    Raises:
        UserError: a name is of no unit, there is no image, or the head is no classifier.
    """
    if net.space.head_kind != CLASSIFIER:
        raise UserError(f"nets with the head {net.space.head_kind} have no mixed dtypes: compile in one, such as int8")
    return quantised_but(export_with_borders(net), units_of(net.arch, net.space), floats, images)


def export_with_borders(net: ArchNet) -> onnx.ModelProto:
    """The float model of a net, each node with a name of its own and each tensor between units named ``borderN``."""
    shape = (1, net.space.input_channels, net.space.height, net.space.width)
    borders = len(units_of(net.arch, net.space)) - 1
    names = ["output", *(f"border{number}" for number in range(borders))]
    model = export_module(
        _BorderedNet(cast(ArchNet, folded_in(net.eval(), FLOAT32))).eval(), (torch.zeros(shape),), ["input"], names
    )
    del model.graph.output[1:]
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    return model


def quantised_but(
    model: onnx.ModelProto, units: Sequence[NetUnit], floats: Collection[str], images: Sequence[npt.NDArray[Any]]
) -> onnx.ModelProto:
    """A model of :func:`export_with_borders` with all but some units quantised; arguments as for the whole export."""
    unknown = sorted(set(floats) - {unit.name for unit in units})
    if unknown:
        raise UserError(f"the net has no unit {', '.join(unknown)}; it has {', '.join(unit.name for unit in units)}")
    described, excluded, source = list[UnitTensor](), list[str](), "input"
    for number, unit in enumerate(units):
        tensor, last = "output" if number == len(units) - 1 else f"border{number}", unit.parts[-1]
        stays = unit.name in floats
        shape = (last.cout, last.out_height, last.out_width)
        described.append(UnitTensor(unit.name, FLOAT32.name if stays else INT8.name, tensor, shape))
        excluded += [node.name for node in nodes_between(model, source, tensor)] if stays else []
        source = tensor
    if len(floats) < len(units):
        mixed = quantise(model, images, excluded)
    else:
        mixed = onnx.ModelProto()
        mixed.CopyFrom(model)
    onnx.helper.set_model_props(mixed, {UNITS: json.dumps([vars(unit) for unit in described])})
    return mixed
