"""Reads models of mixed dtypes: their units, the tensors between them, and the piece of the model of a run of units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import onnx
from onnx import TensorProto, helper

from tvmfbnet.compiler.quantised_model import CODES, INPUT, OUTPUT
from tvmfbnet.dtypes import dtype_named

# Metadata of a model: its units in order, as JSON.
UNITS = "tvmfbnet.units"


@dataclass(frozen=True)
class UnitTensor:
    """A unit of a model.

    Attributes:
        unit: its name.
        dtype: of its kernels.
        tensor: its output, before it is quantised or dequantised for the next unit.
        shape: of that tensor without the batch.
    """

    unit: str
    dtype: str
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stretch:
    """Neighbouring units of one dtype as a model of their own, in the interior layout at inner borders.

    Attributes:
        model: from one tensor to one tensor.
        quantised: whether it is in QDQ form.
        quantiser: the QuantizeLinear of its input in the whole model; None for the first, which takes the image.
        shape: of the input.
    """

    model: onnx.ModelProto
    quantised: bool
    quantiser: Any
    shape: tuple[int, ...]


def units_in(model: onnx.ModelProto) -> tuple[UnitTensor, ...]:
    """The units of a model of mixed dtypes in order; none for another model."""
    text = next((item.value for item in model.metadata_props if item.key == UNITS), None)
    if text is None:
        return ()
    return tuple(UnitTensor(**{**unit, "shape": tuple(unit["shape"])}) for unit in json.loads(text))


def nodes_between(model: onnx.ModelProto, source: str, result: str) -> list[Any]:
    """The nodes that compute ``result`` from ``source`` and constants, in order."""
    wanted, chosen = {result}, []
    for node in reversed(model.graph.node):
        if wanted & set(node.output) and source not in node.output:
            chosen.append(node)
            wanted |= set(node.input)
    return chosen[::-1]


def stretches(model: onnx.ModelProto) -> tuple[Stretch, ...]:
    """The stretches of a model of mixed dtypes in order."""
    units = units_in(model)
    made, before = list[Stretch](), None
    for dtype, run in groupby(units, key=lambda unit: unit.dtype):
        quantised, last = dtype_named(dtype).is_quantised, list(run)[-1]
        quantiser = None if before is None else _quantiser(model, before.tensor)
        source, result = "input", last.tensor
        if quantiser is not None:  # reals come as what the pair of nodes gives, codes as what it takes
            source = quantiser.input[0] if quantised else _reals(model, quantiser)
        is_inner = last is not units[-1]
        if is_inner and quantised:
            result = _reals(model, _quantiser(model, last.tensor))
        piece = _piece(model, source, result, before and before.shape, last.shape if is_inner else None)
        if quantised:
            borders = {INPUT: before is not None, OUTPUT: is_inner}
            helper.set_model_props(piece, {key: CODES for key, has_codes in borders.items() if has_codes})
        shape = tuple(int(size.dim_value) for size in piece.graph.input[0].type.tensor_type.shape.dim)
        made.append(Stretch(piece, quantised, quantiser, shape))
        before = last
    return tuple(made)


def _quantiser(model: onnx.ModelProto, tensor: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == tensor)


def _reals(model: onnx.ModelProto, quantiser: Any) -> str:
    """The reals that codes stand for."""
    codes = quantiser.output[0]
    return str(next(node for node in model.graph.node if codes in node.input).output[0])


def _piece(
    model: onnx.ModelProto,
    source: str,
    result: str,
    given: Sequence[int] | None,
    returned: Sequence[int] | None,
) -> onnx.ModelProto:
    """The model from one tensor to another; with (C, H, W), a tensor is transposed from or to the interior layout."""
    nodes, start, end = nodes_between(model, source, result), model.graph.input[0], model.graph.output[0]
    if given is not None:
        channels, height, width = given
        nodes.insert(0, helper.make_node("Transpose", ["stretch_input"], [source], perm=[0, 3, 1, 2]))
        start = helper.make_tensor_value_info("stretch_input", TensorProto.FLOAT, (1, height, width, channels))
    if returned is not None:
        channels, height, width = returned
        nodes.append(helper.make_node("Transpose", [result], ["stretch_output"], perm=[0, 2, 3, 1]))
        end = helper.make_tensor_value_info("stretch_output", TensorProto.FLOAT, (1, height, width, channels))
    used = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = helper.make_graph(nodes, "stretch", [start], [end], constants)
    return helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
