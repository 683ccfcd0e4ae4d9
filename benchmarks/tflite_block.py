"""Writes one block of a net as a TFLite model in float32, operator by operator, as converters write it.

What a converter makes of a block decides what TensorFlow Lite runs. TFLite's convolutions are channels last and were
not grouped when the published tables were made, so a grouped one becomes a split, convolutions of its groups and a
concatenation. How much of PyTorch's order (channels first) stays depends on the converter:

- ``nhwc``: channels last throughout, as a net written for TensorFlow.
- ``fused``: the same, and convolutions of stride 1 pad by themselves, as in models that LiteRT's own converter makes.
- ``borders``: input and output channels first, with transpositions there and around the channel shuffle.
- ``every``: each convolution between transpositions of its own, padding and activation channels first, as
  onnx-tensorflow writes it where nothing removes a pair of transpositions.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from tvmfbnet.errors import RuntimeUnavailableError
from tvmfbnet.nets.blocks import FBNetBlock

LAYOUTS = ("nhwc", "fused", "borders", "every")
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_SCHEMA_VERSION = 3


def import_schema(wheels: Path) -> Any:
    """TFLite's schema, from LiteRT's wheel of any machine; the package itself loads the machine's code.

    Raises:
        RuntimeUnavailableError: it is not in that folder.
    """
    file = wheels / "ai_edge_litert" / "schema_py_generated.py"
    spec = spec_from_file_location("tflite_schema", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise RuntimeUnavailableError(f"{file} is missing: simulated_rivals.py says how to fetch LiteRT's wheel")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TfliteGraph:
    """A TFLite model under construction; tensors are told by number.

    Args:
        schema: of :func:`import_schema`.
        shape: of its input.
    """

    def __init__(self, schema: Any, shape: Sequence[int]) -> None:
        self._schema, self._graph, self._model = schema, schema.SubGraphT(), schema.ModelT()
        self._graph.tensors, self._graph.operators = [], []
        self._model.version, self._model.subgraphs, self._model.operatorCodes = _SCHEMA_VERSION, [self._graph], []
        self._model.buffers = [schema.BufferT()]  # the empty one, of tensors that are computed
        self._codes: dict[int, int] = {}
        self.input = self._tensor(tuple(shape))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(self._graph.tensors[tensor].shape)

    def constant(self, values: npt.NDArray[Any]) -> int:
        """A tensor of weights (float32) or of sizes and axes (int32)."""
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), "uint8")
        self._model.buffers.append(buffer)
        return self._tensor(values.shape, len(self._model.buffers) - 1, values.dtype == np.int32)

    def add(
        self, name: str, inputs: Sequence[int], shapes: Sequence[Sequence[int]], options: str = "", **values: Any
    ) -> int:
        """Appends an operator; returns the first of its outputs, whose numbers follow each other.

        Args:
            name: of the builtin operator, such as ``CONV_2D``.
            inputs: tensors.
            shapes: of the outputs.
            options: the schema's name of its options, such as ``Conv2DOptions``, if it has any.
            values: the options' fields.
        """
        schema, operator = self._schema, self._schema.OperatorT()
        outputs = [self._tensor(tuple(shape)) for shape in shapes]
        operator.opcodeIndex = self._code(getattr(schema.BuiltinOperator, name))
        operator.inputs, operator.outputs = list(inputs), outputs
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options or "NONE")
        operator.builtinOptions = getattr(schema, f"{options}T")() if options else None
        for field, value in values.items():
            if not hasattr(operator.builtinOptions, field):
                raise ValueError(f"{options} has no field {field}")
            setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)
        return outputs[0]

    def finish(self, output: int) -> bytes:
        """The model's file."""
        self._graph.inputs, self._graph.outputs = [self.input], [output]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, shape: tuple[int, ...], buffer: int = 0, integers: bool = False) -> int:
        tensor = self._schema.TensorT()
        tensor.shape, tensor.buffer, tensor.name = list(shape), buffer, f"t{len(self._graph.tensors)}".encode()
        tensor.type = self._schema.TensorType.INT32 if integers else self._schema.TensorType.FLOAT32
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, builtin: int) -> int:
        if builtin not in self._codes:
            code = self._schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
            self._codes[builtin] = len(self._codes)
            self._model.operatorCodes.append(code)
        return self._codes[builtin]


class BlockWriter:
    """Writes blocks whose batch norms are folded into one model.

    Args:
        schema: of :func:`import_schema`.
        shape: of its input, (1, channels, height, width).
        layout: one of :data:`LAYOUTS`.
    """

    def __init__(self, schema: Any, shape: Sequence[int], layout: str) -> None:
        self._schema, self._layout, self._every = schema, layout, layout == "every"
        batch, channels, height, width = shape
        self._last = layout in ("nhwc", "fused")
        self.graph = TfliteGraph(schema, (batch, height, width, channels) if self._last else shape)

    def model_of(self, block: FBNetBlock) -> bytes:
        """The file of a model of one block: the input's and output's order are the layout's."""
        return self.graph.finish(self.block(self.graph.input, block))

    def block(self, x: int, block: FBNetBlock) -> int:
        """Appends a block to a tensor; returns its output."""
        if self._layout == "borders":
            x = self._transposed(x, _TO_LAST)
        y = self.conv(x, block.conv_pw, relu=True)
        if block.spec.groups > 1:
            y = self._shuffled(y, block.spec.groups)
        y = self.conv(self.conv(y, block.conv_dw, relu=True), block.conv_pwl, relu=False)
        if block.has_residual:
            y = self.graph.add("ADD", [y, x], [self.graph.shape(y)], "AddOptions")
        return self._transposed(y, _TO_FIRST) if self._layout == "borders" else y

    def conv(self, x: int, conv: Any, relu: bool) -> int:
        """Appends a convolution of any groups, with a bias, and what the layout puts around it."""
        same = self._layout == "fused" and conv.stride[0] == 1
        if conv.padding[0] and not same:
            x = self._padded(x, conv.padding[0])
        if self._every:
            x = self._transposed(x, _TO_LAST)
        weights, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        depthwise = conv.groups == conv.in_channels and conv.groups > 1
        groups = 1 if depthwise else conv.groups
        inputs = [x] if groups == 1 else self._split(x, groups)
        fused = relu and not self._every
        kinds = zip(inputs, np.split(weights, groups), np.split(bias, groups), strict=True)
        made = [self._one(given, *values, conv.stride[0], depthwise, fused, same) for given, *values in kinds]
        y = made[0]
        if groups > 1:
            shape = (*self.graph.shape(y)[:3], len(bias))
            y = self.graph.add("CONCATENATION", made, [shape], "ConcatenationOptions", axis=3)
        if not self._every:
            return y
        y = self._transposed(y, _TO_FIRST)
        return self.graph.add("RELU", [y], [self.graph.shape(y)]) if relu else y

    def _one(
        self,
        x: int,
        weights: npt.NDArray[Any],
        bias: npt.NDArray[Any],
        stride: int,
        depthwise: bool,
        relu: bool,
        same: bool,
    ) -> int:
        """One convolution of TFLite's, channels last."""
        batch, height, width, _ = self.graph.shape(x)
        lost, schema = 0 if same else weights.shape[2] - 1, self._schema
        shape = (batch, (height - lost - 1) // stride + 1, (width - lost - 1) // stride + 1, len(bias))
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        activation = schema.ActivationFunctionType.RELU if relu else schema.ActivationFunctionType.NONE
        return self.graph.add(
            kind,
            [x, self.graph.constant(weights.transpose(order)), self.graph.constant(bias)],
            [shape],
            options,
            padding=schema.Padding.SAME if same else schema.Padding.VALID,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=activation,
            **({"depthMultiplier": 1} if depthwise else {}),
        )

    def _split(self, x: int, groups: int) -> list[int]:
        *image, channels = self.graph.shape(x)
        shapes = [(*image, channels // groups)] * groups
        axis = self.graph.constant(np.int32([3]).reshape(()))
        first = self.graph.add("SPLIT", [axis, x], shapes, "SplitOptions", numSplits=groups)
        return list(range(first, first + groups))

    def _padded(self, x: int, by: int) -> int:
        last = not self._every
        sizes = np.int32([[0, 0], [by, by], [by, by], [0, 0]] if last else [[0, 0], [0, 0], [by, by], [by, by]])
        shape = [size + int(added.sum()) for size, added in zip(self.graph.shape(x), sizes, strict=True)]
        return self.graph.add("PAD", [x, self.graph.constant(sizes)], [shape], "PadOptions")

    def _transposed(self, x: int, axes: Sequence[int]) -> int:
        shape = [self.graph.shape(x)[axis] for axis in axes]
        return self.graph.add("TRANSPOSE", [x, self.graph.constant(np.int32(axes))], [shape], "TransposeOptions")

    def _reshaped(self, x: int, shape: Sequence[int]) -> int:
        sizes = self.graph.constant(np.int32(shape))
        return self.graph.add("RESHAPE", [x, sizes], [shape], "ReshapeOptions", newShape=list(shape))

    def _shuffled(self, x: int, groups: int) -> int:
        """The channel shuffle, channels first where the layout has them so."""
        if self._last:
            *image, channels = self.graph.shape(x)
            y = self._transposed(self._reshaped(x, (*image, groups, channels // groups)), (0, 1, 2, 4, 3))
            return self._reshaped(y, (*image, channels))
        if self._layout == "borders":
            x = self._transposed(x, _TO_FIRST)
        batch, channels, *image = self.graph.shape(x)
        y = self._transposed(self._reshaped(x, (batch, groups, channels // groups, *image)), (0, 2, 1, 3, 4))
        y = self._reshaped(y, (batch, channels, *image))
        return self._transposed(y, _TO_LAST) if self._layout == "borders" else y
