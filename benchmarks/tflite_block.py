"""Writes one block of a net as a TFLite model in float32, operator by operator, as converters write it.

What a converter makes of a block decides what TensorFlow Lite runs. TFLite's convolutions are channels last and were
not grouped when the published tables were made, so a grouped one becomes a split, convolutions of its groups and a
concatenation. How much of PyTorch's order (channels first) stays depends on the converter:

- ``nhwc``: channels last throughout, as a net written for TensorFlow.
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

LAYOUTS = ("nhwc", "borders", "every")
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
    """Writes a block whose batch norms are folded.

    Args:
        schema: of :func:`import_schema`.
        block: the block.
        shape: of its input, (1, channels, height, width).
        layout: one of :data:`LAYOUTS`.
    """

    def __init__(self, schema: Any, block: FBNetBlock, shape: Sequence[int], layout: str) -> None:
        self._schema, self._block, self._layout, self._every = schema, block, layout, layout == "every"
        batch, channels, height, width = shape
        first = layout != "nhwc"
        self._graph = TfliteGraph(schema, shape if first else (batch, height, width, channels))

    def write(self) -> bytes:
        """The model's file: the input's and output's order are the layout's."""
        block, x = self._block, self._graph.input
        if self._layout == "borders":
            x = self._transposed(x, _TO_LAST)
        y = self._conv(x, block.conv_pw, relu=True)
        if block.spec.groups > 1:
            y = self._shuffled(y, block.spec.groups)
        y = self._conv(self._conv(y, block.conv_dw, relu=True), block.conv_pwl, relu=False)
        if block.has_residual:
            y = self._graph.add("ADD", [y, x], [self._graph.shape(y)], "AddOptions")
        return self._graph.finish(self._transposed(y, _TO_FIRST) if self._layout == "borders" else y)

    def _conv(self, x: int, conv: Any, relu: bool) -> int:
        """A convolution of any groups with what the layout puts around it."""
        padding = conv.padding[0]
        if padding:
            x = self._padded(x, padding)
        if self._every:
            x = self._transposed(x, _TO_LAST)
        weights, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        depthwise = conv.groups == conv.in_channels and conv.groups > 1
        groups = 1 if depthwise else conv.groups
        inputs = [x] if groups == 1 else self._split(x, groups)
        fused = relu and not self._every
        kinds = zip(inputs, np.split(weights, groups), np.split(bias, groups), strict=True)
        made = [self._one(given, *values, conv.stride[0], depthwise, fused) for given, *values in kinds]
        y = made[0]
        if groups > 1:
            shape = (*self._graph.shape(y)[:3], len(bias))
            y = self._graph.add("CONCATENATION", made, [shape], "ConcatenationOptions", axis=3)
        if not self._every:
            return y
        y = self._transposed(y, _TO_FIRST)
        return self._graph.add("RELU", [y], [self._graph.shape(y)]) if relu else y

    def _one(
        self, x: int, weights: npt.NDArray[Any], bias: npt.NDArray[Any], stride: int, depthwise: bool, relu: bool
    ) -> int:
        """One convolution of TFLite's, without padding, channels last."""
        batch, height, width, _ = self._graph.shape(x)
        taps, schema = weights.shape[2], self._schema
        shape = (batch, (height - taps) // stride + 1, (width - taps) // stride + 1, len(bias))
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        activation = schema.ActivationFunctionType.RELU if relu else schema.ActivationFunctionType.NONE
        return self._graph.add(
            kind,
            [x, self._graph.constant(weights.transpose(order)), self._graph.constant(bias)],
            [shape],
            options,
            padding=schema.Padding.VALID,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=activation,
            **({"depthMultiplier": 1} if depthwise else {}),
        )

    def _split(self, x: int, groups: int) -> list[int]:
        *image, channels = self._graph.shape(x)
        shapes = [(*image, channels // groups)] * groups
        axis = self._graph.constant(np.int32([3]).reshape(()))
        first = self._graph.add("SPLIT", [axis, x], shapes, "SplitOptions", numSplits=groups)
        return list(range(first, first + groups))

    def _padded(self, x: int, by: int) -> int:
        last = not self._every
        sizes = np.int32([[0, 0], [by, by], [by, by], [0, 0]] if last else [[0, 0], [0, 0], [by, by], [by, by]])
        shape = [size + int(added.sum()) for size, added in zip(self._graph.shape(x), sizes, strict=True)]
        return self._graph.add("PAD", [x, self._graph.constant(sizes)], [shape], "PadOptions")

    def _transposed(self, x: int, axes: Sequence[int]) -> int:
        shape = [self._graph.shape(x)[axis] for axis in axes]
        return self._graph.add("TRANSPOSE", [x, self._graph.constant(np.int32(axes))], [shape], "TransposeOptions")

    def _reshaped(self, x: int, shape: Sequence[int]) -> int:
        sizes = self._graph.constant(np.int32(shape))
        return self._graph.add("RESHAPE", [x, sizes], [shape], "ReshapeOptions", newShape=list(shape))

    def _shuffled(self, x: int, groups: int) -> int:
        """The channel shuffle, channels first where the layout has them so."""
        if self._layout == "nhwc":
            *image, channels = self._graph.shape(x)
            y = self._transposed(self._reshaped(x, (*image, groups, channels // groups)), (0, 1, 2, 4, 3))
            return self._reshaped(y, (*image, channels))
        if self._layout == "borders":
            x = self._transposed(x, _TO_FIRST)
        batch, channels, *image = self._graph.shape(x)
        y = self._transposed(self._reshaped(x, (batch, groups, channels // groups, *image)), (0, 2, 1, 3, 4))
        y = self._reshaped(y, (batch, channels, *image))
        return self._transposed(y, _TO_LAST) if self._layout == "borders" else y
