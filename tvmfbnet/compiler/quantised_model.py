"""Reads QDQ models: the constants behind their nodes, and what QuantizeLinear and DequantizeLinear say."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tvmfbnet.compiler.integer_kernels import Quantisation
from tvmfbnet.errors import UserError

_Array = npt.NDArray[Any]
# Metadata of a model: whether its input and output are codes, as inside a net; floats without.
INPUT, OUTPUT, CODES = "tvmfbnet.input", "tvmfbnet.output", "codes"


class QuantisedModel:
    """A QDQ model.

    Args:
        model: from :func:`tvmfbnet.quantisation.post_training.quantise`.
        offset: taken from each unsigned code, as the target stores them (:class:`.dot_products.DotProduct`).
    """

    def __init__(self, model: onnx.ModelProto, offset: int) -> None:
        self.nodes = list(model.graph.node)
        self.offset = offset
        self._constants: dict[str, _Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._uses = Counter(name for node in self.nodes for name in node.input)
        for value in model.graph.output:
            self._uses[value.name] += 1
        self.takes_codes, self.gives_codes = (_has_codes(model, border) for border in (INPUT, OUTPUT))
        (given,) = model.graph.input
        self.input, self.outputs = given.name, [value.name for value in model.graph.output]
        self.input_shape = [int(size.dim_value) for size in given.type.tensor_type.shape.dim]

    def constant(self, name: str) -> _Array:
        """An initialiser.

        Raises:
            UserError: there is none of that name: the model computes what must be constant.
        """
        if name not in self._constants:
            raise UserError(f"the quantised model computes {name!r}, which has to be a constant; quantise it again")
        return self._constants[name]

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is constant, directly or dequantised."""
        return name in self._constants or self._is_dequantised(name)

    def _is_dequantised(self, name: str) -> bool:
        node = self._producers.get(name)
        return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in self._constants

    def weights(self, name: str) -> tuple[_Array, _Array]:
        """The int8 or int32 values and scales behind a dequantised constant.

        Raises:
            UserError: it is not quantised, or has zero points.
        """
        if not self._is_dequantised(name):
            raise UserError(f"weights {name!r} are not quantised; quantise the model with per-channel int8 weights")
        values, scale, zero = (self.constant(item) for item in self._producers[name].input[:3])
        if np.any(zero):
            raise UserError(f"weights {name!r} have zero points, kernels take symmetric weights only")
        return values, scale

    def quantisation(self, node: Any) -> Quantisation:
        """What a QuantizeLinear or DequantizeLinear of activations says, for codes as the target stores them."""
        scale, zero = self.constant(node.input[1]), self.constant(node.input[2])
        if zero.dtype != np.uint8 or scale.size != 1:
            raise UserError(f"activations {node.input[0]!r} are {zero.dtype}, kernels take uint8 with one scale only")
        return Quantisation(float(scale), int(zero) - self.offset, -self.offset, 255 - self.offset)

    def uses(self, name: str) -> int:
        """How many nodes read a tensor, looking through the DequantizeLinear nodes of a quantised one."""
        direct = [node for node in self.nodes if name in node.input]
        through = [node for node in direct if node.op_type == "DequantizeLinear"]
        others = self._uses[name] - len(through)
        return others + sum(self._uses[node.output[0]] for node in through)


def is_part(model: onnx.ModelProto) -> bool:
    """Whether a model takes or gives codes: it is a part inside a net."""
    return _has_codes(model, INPUT) or _has_codes(model, OUTPUT)


def _has_codes(model: onnx.ModelProto, border: str) -> bool:
    return {item.key: item.value for item in model.metadata_props}.get(border) == CODES


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes by name."""
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
