"""A QDQ model as a torch module that computes in float32 with 8-bit values, for quantisation-aware training.

The module runs the nodes of the QDQ model itself. So it rounds exactly where the model has its pairs of QuantizeLinear
and DequantizeLinear, whatever the blocks, and what it learns goes back into the same graph.

Weights are trained in float32 and rounded in each step with the scales that the quantiser would give them. Ranges of
activations are moving averages of what they were in the steps, from those of the calibration on; a range that began at
zero stays there, as a ReLU that is part of the rounding needs it. Gradients pass straight through the rounding, and
none reaches a value outside of its range (Jacob et al. 2018, arXiv 1712.05877).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from tvmfbnet.errors import UserError
from tvmfbnet.nets.depthwise import depthwise_conv
from tvmfbnet.nets.pointwise import pointwise_conv

# Share of a step's range in the moving average of ranges.
_NEW_SHARE = 0.01
_STEPS, _LARGEST_WEIGHT = 255, 127
# Largest code of a bias, with room for rounding: a weight's scale is made large enough for it.
_LARGEST_BIAS = (2**31 - 1) / 1.0001
_TINY = float(np.finfo(np.float32).tiny)


class ActivationRange(nn.Module):
    """Rounds a tensor to 256 steps of a range, which follows the tensor's in training.

    Args:
        scale: of a step, at first.
        zero: code of zero, at first; 0 makes the range begin at zero for good.
    """

    def __init__(self, scale: float, zero: int) -> None:
        super().__init__()
        self._starts_at_zero = zero == 0
        # In double precision, in which an untrained range gives back its scale to the last bit.
        self.register_buffer("bounds", torch.tensor([-zero * scale, (_STEPS - zero) * scale], dtype=torch.float64))
        self.bounds: torch.Tensor

    def codes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale, float32, and the code of zero, int32; both without dimensions."""
        low, high = self.bounds
        scale = ((high - low) / _STEPS).clamp(min=_TINY)
        return scale.float(), (-low / scale).round().clamp(0, _STEPS).int()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rounds ``x``."""
        if self.training:
            self._follow(x.detach())
        return torch.fake_quantize_per_tensor_affine(x, *self.codes(), 0, _STEPS)

    @torch.no_grad()
    def _follow(self, x: torch.Tensor) -> None:
        bounds = torch.stack(torch.aminmax(x)).double()
        low = torch.zeros_like(bounds[0]) if self._starts_at_zero else bounds[0].clamp(max=0)
        self.bounds.lerp_(torch.stack([low, bounds[1].clamp(min=0)]), _NEW_SHARE)


class FakeQuantisedNet(nn.Module):
    """A net that rounds as its QDQ model does; (N, C, H, W) to (N, classes), or to another head's output.

    Args:
        model: in float32, which gives the weights.
        quantised: its QDQ form from :func:`tvmfbnet.quantisation.post_training.quantise`.

    Raises:
        UserError: the model has an operation that cannot be trained here.
    """

    def __init__(self, model: onnx.ModelProto, quantised: onnx.ModelProto) -> None:
        super().__init__()
        self._model = quantised
        self._constants = {item.name: numpy_helper.to_array(item) for item in quantised.graph.initializer}
        weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        self._origins: dict[str, str] = {}  # of a dequantised weight: its name in the float model
        self._scales: dict[str, str] = {}  # of a dequantised activation: the name of its scale
        self._rounds: set[str] = set()  # outputs of the nodes that round; others move values that were rounded before
        self._nodes: list[onnx.NodeProto] = []
        self.weights, self.ranges = nn.ParameterDict(), nn.ModuleDict()
        for node in quantised.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
                name = node.input[0].removesuffix("_quantized")
                self._origins[node.output[0]] = name
                self.weights[_key(name)] = nn.Parameter(torch.from_numpy(weights[name].copy()))
                continue
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear", *_OPERATIONS):
                raise UserError(f"a net with the operation {node.op_type} cannot be fine-tuned: set no fine-tuning")
            self._nodes.append(node)
            if node.op_type == "QuantizeLinear" and _key(node.input[1]) not in self.ranges:
                scale, zero = (self._constants[item].item() for item in node.input[1:3])
                self.ranges[_key(node.input[1])] = ActivationRange(scale, zero)
                self._rounds.add(node.output[0])
            elif node.op_type == "DequantizeLinear":
                self._scales[node.output[0]] = node.input[1]
        last = {name: index for index, node in enumerate(self._nodes) for name in node.input}
        self._unused_after = [{name for name in node.input if last[name] == i} for i, node in enumerate(self._nodes)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, C, H, W) to logits (N, classes), of LR-ASPP (N, classes, h, w)."""
        values = {self._model.graph.input[0].name: x}
        for node, unused in zip(self._nodes, self._unused_after, strict=True):
            values[node.output[0]] = self._run(node, values)
            for name in unused:
                values.pop(name, None)
        return values[self._model.graph.output[0].name]

    def _run(self, node: onnx.NodeProto, values: dict[str, torch.Tensor]) -> torch.Tensor:
        x = values[node.input[0]]
        if node.op_type == "DequantizeLinear":
            return x
        if node.op_type == "QuantizeLinear":
            return self._range(node.input[1])(x) if node.output[0] in self._rounds else x
        if node.op_type in _WEIGHTED:
            weight, bias = self._weights_of(node)
            scales = self._weight_scales(node)
            rounded = torch.fake_quantize_per_channel_affine(
                weight, scales, torch.zeros_like(scales, dtype=torch.int32), 0, -_LARGEST_WEIGHT, _LARGEST_WEIGHT
            )
            return _OPERATIONS[node.op_type](_attributes(node), [x, rounded, bias])
        others = [values[name] if name in values else self._constants[name] for name in node.input[1:] if name]
        return _OPERATIONS[node.op_type](_attributes(node), [x, *others])

    def _weights_of(self, node: onnx.NodeProto) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = (self.weights[_key(self._origins[name])] for name in node.input[1:3])
        return weight, bias

    @torch.no_grad()
    def _weight_scales(self, node: onnx.NodeProto) -> torch.Tensor:
        """One scale per output channel: of its largest weight, or larger where the bias would not fit into 32 bits."""
        weight, bias = self._weights_of(node)
        scales = weight.flatten(1).abs().amax(dim=1) / _LARGEST_WEIGHT
        scales = torch.where(scales < _TINY, 1.0, scales)
        return torch.maximum(scales, bias.abs() / (self._input_scale(node) * _LARGEST_BIAS))

    def _input_scale(self, node: onnx.NodeProto) -> torch.Tensor:
        return self._range(self._scales[node.input[0]]).codes()[0]

    def _range(self, scale: str) -> ActivationRange:
        """The range of the tensors that a scale belongs to."""
        return cast(ActivationRange, self.ranges[_key(scale)])

    @torch.no_grad()
    def to_model(self) -> onnx.ModelProto:
        """The QDQ model with the weights and ranges as they are now; the graph is that of the one given."""
        changed: dict[str, torch.Tensor] = {}
        producers = {node.output[0]: node for node in self._model.graph.node}
        for node in self._nodes:
            if node.op_type == "QuantizeLinear":
                scale, zero = self._range(node.input[1]).codes()
                changed |= {node.input[1]: scale, node.input[2]: zero}
            elif node.op_type in _WEIGHTED:
                (weight, bias), scales = self._weights_of(node), self._weight_scales(node)
                codes = (weight / scales.view(-1, *[1] * (weight.dim() - 1))).round()
                bias_scales = scales * self._input_scale(node)
                # In double precision: float32 has too few bits for a bias of 32.
                bias_codes = (bias.double() / bias_scales.double()).round()
                for name, values, scale in (
                    (node.input[1], codes.clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT), scales),
                    (node.input[2], bias_codes.clamp(-(2**31), 2**31 - 1), bias_scales),
                ):
                    changed |= dict(zip(producers[name].input[:2], (values, scale), strict=True))
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in changed:
                old, new = self._constants[tensor.name], changed[tensor.name].cpu().numpy()
                tensor.CopyFrom(numpy_helper.from_array(new.astype(old.dtype).reshape(old.shape), tensor.name))
        return model


def _key(name: str) -> str:
    """A tensor's name as that of a parameter, in which torch allows no dots."""
    return name.replace(".", "/")


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _convolve(settings: dict[str, Any], inputs: Sequence[Any]) -> torch.Tensor:
    x, weight, bias = inputs
    stride, pads, groups = settings["strides"], settings["pads"], settings["group"]
    side = weight.shape[2]
    is_depthwise = groups == len(weight) == x.shape[1] and stride[0] == stride[1] and weight.shape[2] == weight.shape[3]
    # A shuffle leaves channels first, which convs are slower on.
    x = x.contiguous(memory_format=torch.channels_last)
    if is_depthwise and side % 2 and pads == [side // 2] * 4:
        y: torch.Tensor = depthwise_conv(x, weight, stride[0]) + bias.view(1, -1, 1, 1)
        return y
    if weight.shape[2:] == (1, 1) and groups == 1 and not any(pads) and stride[0] == stride[1]:
        return pointwise_conv(x, weight, stride[0], bias)
    if pads[:2] != pads[2:]:
        x, pads = F.pad(x, (pads[1], pads[3], pads[0], pads[2])), [0, 0]
    return F.conv2d(x, weight, bias, stride, pads[:2], settings["dilations"], groups)


def _reshape(_: dict[str, Any], inputs: Sequence[Any]) -> torch.Tensor:
    """The model is of one image; here the first dimension is the batch's."""
    return inputs[0].reshape(len(inputs[0]), *_whole(inputs[1])[1:])  # type: ignore[no-any-return]


def _mean(settings: dict[str, Any], inputs: Sequence[Any]) -> torch.Tensor:
    axes = _whole(inputs[1]) if len(inputs) > 1 else list(settings["axes"])
    return inputs[0].mean(dim=axes, keepdim=bool(settings.get("keepdims", 1)))  # type: ignore[no-any-return]


def _enlarge(settings: dict[str, Any], inputs: Sequence[Any]) -> torch.Tensor:
    """Whole factors and bilinear, as LR-ASPP has them."""
    factor = int(np.asarray(inputs[-1]).reshape(-1)[-1])
    return F.interpolate(inputs[0], scale_factor=factor, mode="bilinear", align_corners=False)


def _unsqueeze(_: dict[str, Any], inputs: Sequence[Any]) -> torch.Tensor:
    x, axes = inputs[0], _whole(inputs[1])
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x  # type: ignore[no-any-return]


def _whole(values: npt.NDArray[Any]) -> list[int]:
    return [int(value) for value in np.asarray(values).reshape(-1)]


_WEIGHTED = ("Conv", "Gemm")
# Those that have integer kernels (:mod:`tvmfbnet.compiler.integer_lowering`), and LR-ASPP's in a net's float tail.
_OPERATIONS: dict[str, Callable[[dict[str, Any], Sequence[Any]], torch.Tensor]] = {
    "Conv": _convolve,
    "Gemm": lambda _, inputs: F.linear(*inputs),
    "Add": lambda _, inputs: inputs[0] + inputs[1],
    "Mul": lambda _, inputs: inputs[0] * inputs[1],
    "Relu": lambda _, inputs: F.relu(inputs[0]),
    "HardSwish": lambda _, inputs: F.hardswish(inputs[0]),
    "Sigmoid": lambda _, inputs: torch.sigmoid(inputs[0]),
    "HardSigmoid": lambda given, inputs: (inputs[0] * given.get("alpha", 0.2) + given.get("beta", 0.5)).clamp(0, 1),
    "GlobalAveragePool": lambda _, inputs: inputs[0].mean(dim=(2, 3), keepdim=True),
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Transpose": lambda given, inputs: inputs[0].permute(given["perm"]),
    "Unsqueeze": _unsqueeze,
    "Resize": _enlarge,
    "Flatten": lambda given, inputs: inputs[0].flatten(given.get("axis", 1)),
    "Identity": lambda _, inputs: inputs[0],
}
