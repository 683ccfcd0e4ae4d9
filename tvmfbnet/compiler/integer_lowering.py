"""From a QDQ model to integer kernels: activations are 8-bit codes between kernels, sums are int32.

The pass reads the ONNX model and not what TVM's frontend makes of it: there quantisation is spread over float
operators, and the pairs that belong together would have to be guessed. A convolution, its bias, the requantisation, a
residual addition and an activation become one kernel. Padding holds the zero point; elsewhere zero points are folded
into the bias. What has no integer form (squeeze-and-excitation's gates, hard swish) is computed in float inside a
kernel, between codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import tvm
from tvm import relax, te, tirx
from tvm.ir import IRModule

from tvmfbnet.compiler import integer_kernels as kernels
from tvmfbnet.compiler.dot_products import DotProduct, dot_product_of
from tvmfbnet.compiler.integer_kernels import ConvWindow, Draft, Quantisation
from tvmfbnet.compiler.integer_sums import convolution, product
from tvmfbnet.compiler.quantised_model import QuantisedModel, attributes
from tvmfbnet.errors import UserError

# Operations of one tensor that move no data here: tensors are stored in the interior layout, whatever ONNX says.
_PASSED = {(0, 3, 1, 2), (0, 2, 3, 1)}


@dataclass(frozen=True)
class _Value:
    """A tensor of the model: in memory (``variable``) or the result of a draft.

    Attributes:
        quantisation: of codes; None for reals and for the input of a part before its first QuantizeLinear.
        variable: in memory.
        draft, tensor: not yet there; codes before rounding or reals.
        groups: of a channel shuffle in progress.
    """

    quantisation: Quantisation | None = None
    variable: Any = None
    draft: Draft | None = None
    tensor: Any = None
    groups: int = 0


def lower_quantised(model: onnx.ModelProto, target: tvm.target.Target) -> IRModule:
    """A QDQ model as a module of integer kernels, which ``main`` calls; outputs are in the interior layout.

    Raises:
        UserError: it has an operation for which there is no kernel.
    """
    return _Lowering(model, dot_product_of(target)).module()


class _Lowering:
    def __init__(self, model: onnx.ModelProto, dot: DotProduct) -> None:
        self._model, self._dot = QuantisedModel(model, dot.offset), dot
        self._builder = relax.BlockBuilder()
        self._values: dict[str, _Value] = {}
        self._handlers: dict[str, Callable[[Any], _Value]] = {
            "QuantizeLinear": self._quantise,
            "DequantizeLinear": lambda node: self._values[node.input[0]],
            "Conv": self._convolve,
            "Gemm": self._multiply,
            "ReduceMean": self._mean,
            "GlobalAveragePool": self._mean,
            "Add": lambda node: self._combine(node, lambda one, other: one + other, "added"),
            "Mul": lambda node: self._combine(node, lambda one, other: one * other, "multiplied"),
            "Transpose": self._transpose,
            "Reshape": self._reshape,
            **dict.fromkeys(("Unsqueeze", "Identity"), self._pass),
            "Flatten": lambda node: self._flat(self._values[node.input[0]]),
            **dict.fromkeys(_FUNCTIONS, self._apply),
        }

    def module(self) -> IRModule:
        """Lowers the whole model."""
        model, builder = self._model, self._builder
        dtype = self._dot.codes if model.takes_codes else "float32"
        source = relax.Var("input", relax.TensorType(model.input_shape, dtype))
        self._values[model.input] = _Value(variable=source)
        with builder.function("main", [source]):
            with builder.dataflow():
                for node in model.nodes:
                    if not (node.op_type == "DequantizeLinear" and model.is_constant(node.output[0])):
                        self._values[node.output[0]] = self._handler(node)(node)
                results = [self._result(self._values[name]) for name in model.outputs]
                output = builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            builder.emit_func_output(output)
        # Kernels are fused already; only reshapes are left.
        return relax.transform.DeadCodeElimination()(relax.transform.LegalizeOps()(builder.get()))

    def _handler(self, node: Any) -> Callable[[Any], _Value]:
        if node.op_type not in self._handlers:
            raise UserError(f"there is no integer kernel for the operation {node.op_type}; compile this net in float32")
        return self._handlers[node.op_type]

    def _result(self, value: _Value) -> relax.Expr:
        """The output: codes for the next part of a net, else floats."""
        if self._model.gives_codes or value.quantisation is None:
            return self._stored(value).variable
        draft, reals = self._reals(value)
        return self._emit(draft, reals)

    # In memory or not

    def _stored(self, value: _Value) -> _Value:
        """A value in memory: codes where it is quantised, else floats."""
        if value.variable is not None or value.draft is None or value.tensor is None:
            return value
        tensor = value.tensor
        if value.quantisation is not None:
            tensor = kernels.store(tensor, self._dot)
        return _Value(value.quantisation, self._emit(value.draft, tensor))

    def _emit(self, draft: Draft, tensor: te.Tensor) -> relax.Expr:
        name = "_".join(["fused", *(draft.names or ["elementwise"])])
        function = self._builder.add_func(draft.finish(tensor), name)
        shape = [int(size) for size in tensor.shape]
        result = relax.TensorType(shape, str(tensor.dtype))
        return self._builder.emit(relax.call_tir(function, draft.arguments, result))

    def _opened(self, value: _Value) -> tuple[Draft, te.Tensor]:
        """A draft that continues a value, and the tensor in it."""
        if value.draft is not None and value.tensor is not None:
            return value.draft, value.tensor
        draft = Draft(self._dot)
        return draft, draft.argument(value.variable)

    def _reals(self, value: _Value) -> tuple[Draft, te.Tensor]:
        draft, tensor = self._opened(value)
        if value.quantisation is not None:
            tensor = kernels.reals_of(draft, tensor, value.quantisation)
        return draft, tensor

    def _new_sum(self, name: str) -> tuple[Draft, te.Tensor, Quantisation]:
        """A draft for a sum over the codes of a tensor."""
        value = self._stored(self._values[name])
        if value.quantisation is None:
            raise UserError(
                f"the input {name!r} of a convolution or product is not quantised; quantise the model again"
            )
        draft = Draft(self._dot)
        return draft, draft.argument(value.variable), value.quantisation

    # Operations

    def _quantise(self, node: Any) -> _Value:
        value, quantisation = self._values[node.input[0]], self._model.quantisation(node)
        if value.quantisation is not None:
            if value.quantisation == quantisation:
                return value
            draft, tensor = self._reals(value)
        elif value.variable is not None and str(value.variable.ty.dtype) != "float32":
            return replace(value, quantisation=quantisation)  # the input of a part
        else:
            draft, tensor = self._opened(value)
            if node.input[0] == self._model.input and len(tensor.shape) == 4:
                tensor = _interior(tensor)
        result = _Value(quantisation, draft=draft, tensor=kernels.requantise(draft, tensor, quantisation))
        return self._kept(node, result)

    def _kept(self, node: Any, value: _Value) -> _Value:
        """In memory where several operations need it."""
        return self._stored(value) if self._model.uses(node.output[0]) > 1 else value

    def _following(self, node: Any) -> Quantisation:
        """The quantisation of a sum's result."""
        users = [user for user in self._model.nodes if node.output[0] in user.input]
        if len(users) != 1 or users[0].op_type != "QuantizeLinear":
            raise UserError(
                f"the result {node.output[0]!r} of {node.op_type} is not quantised; quantise the model again"
            )
        return self._model.quantisation(users[0])

    def _finished_sum(self, node: Any, draft: Draft, total: te.Tensor, source: Quantisation) -> _Value:
        weights, scales = self._model.weights(node.input[1])
        bias = self._model.weights(node.input[2])[0] if len(node.input) > 2 else np.zeros(len(weights), "int32")
        result = self._following(node)
        sums = kernels.sums_of(weights, bias, scales, source, result)
        codes = kernels.scaled_sum(draft, total, sums, result, len(weights))
        return self._kept(self._quantiser(node), _Value(result, draft=draft, tensor=codes))

    def _quantiser(self, node: Any) -> Any:
        return next(user for user in self._model.nodes if node.output[0] in user.input)

    def _convolve(self, node: Any) -> _Value:
        settings = attributes(node)
        weights, _ = self._model.weights(node.input[1])
        window = _window(node, settings, weights.shape)
        value = self._values[node.input[0]]
        if value.draft is not None and value.quantisation is not None and self._is_image(value.draft):
            # The image is quantised as the convolution reads it.
            draft, source = value.draft, value.quantisation
            tensor = kernels.store(value.tensor, self._dot)
        else:
            draft, tensor, source = self._new_sum(node.input[0])
        total = convolution(draft, tensor, weights, source.zero, window)
        return self._finished_sum(node, draft, total, source)

    def _is_image(self, draft: Draft) -> bool:
        return not draft.names and not self._model.takes_codes

    def _multiply(self, node: Any) -> _Value:
        if not attributes(node).get("transB"):
            raise UserError("a Gemm without transB has no integer kernel; export the net again")
        draft, tensor, source = self._new_sum(node.input[0])
        weights, _ = self._model.weights(node.input[1])
        return self._finished_sum(node, draft, product(draft, tensor, weights), source)

    def _mean(self, node: Any) -> _Value:
        draft, tensor, source = self._new_sum(node.input[0])
        value = _Value(draft=draft, tensor=kernels.mean(draft, tensor, source))
        keeps = node.op_type == "GlobalAveragePool" or attributes(node).get("keepdims", 1)
        return value if keeps else self._flat(value)

    def _combine(self, node: Any, function: Callable[[Any, Any], Any], name: str) -> _Value:
        one, other = sorted((self._values[item] for item in node.input), key=_rank)
        other = self._stored(other)
        draft, reals = self._reals(one)
        second = draft.argument(other.variable)
        if other.quantisation is not None:
            second = kernels.reals_of(draft, second, other.quantisation)
        draft.names.append(name)
        return _Value(draft=draft, tensor=_broadcast(reals, second, function, name))

    def _apply(self, node: Any) -> _Value:
        draft, reals = self._reals(self._values[node.input[0]])
        function = _FUNCTIONS[node.op_type](attributes(node))
        draft.names.append(node.op_type.lower())
        return _Value(draft=draft, tensor=kernels.elementwise(reals, function, node.op_type.lower()))

    def _pass(self, node: Any) -> _Value:
        return self._values[node.input[0]]

    def _transpose(self, node: Any) -> _Value:
        value, order = self._values[node.input[0]], tuple(attributes(node)["perm"])
        if value.groups and order == (0, 2, 1, 3, 4):
            draft, tensor = self._opened(self._stored(replace(value, groups=0)))
            codes = kernels.shuffled(draft, tensor, value.groups)
            return _Value(value.quantisation, self._emit(draft, codes))
        if value.groups or order not in _PASSED:
            raise UserError(f"there is no integer kernel for a transpose by {order}; compile this net in float32")
        return value

    def _reshape(self, node: Any) -> _Value:
        value = self._values[node.input[0]]
        sizes = [int(size) for size in self._model.constant(node.input[1])]
        if len(sizes) == 2:
            return self._flat(value)
        return replace(value, groups=sizes[1]) if len(sizes) == 5 and not value.groups else replace(value, groups=0)

    def _flat(self, value: _Value) -> _Value:
        """A tensor of one pixel without its image axes."""
        if value.variable is not None:
            channels = int(value.variable.ty.shape.values[-1])
            return replace(value, variable=self._builder.emit(relax.op.reshape(value.variable, [1, channels])))
        inner = value.tensor
        flat = te.compute((1, int(inner.shape[-1])), lambda b, c: reals_at(inner, b, c), name="flat")
        return replace(value, tensor=flat)


def _rank(value: _Value) -> tuple[int, bool]:
    """Sorts the tensor first whose kernel a combination continues: the larger one, of equal ones that not in memory."""
    shape = value.variable.ty.shape.values if value.tensor is None else value.tensor.shape
    return -math.prod(int(size) for size in shape), value.tensor is None


def reals_at(tensor: te.Tensor, b: Any, c: Any) -> Any:
    """The element of channel ``c`` of a tensor of one pixel, with or without its image axes."""
    return tensor[b, 0, 0, c] if len(tensor.shape) == 4 else tensor[b, c]


def _interior(image: te.Tensor) -> te.Tensor:
    """An image from NCHW to the interior layout."""
    batch, channels, height, width = image.shape
    return te.compute((batch, height, width, channels), lambda b, y, x, c: image[b, c, y, x], name="interior")


def _broadcast(one: te.Tensor, other: te.Tensor, function: Callable[[Any, Any], Any], name: str) -> te.Tensor:
    """Combines two tensors, the second of which may be one pixel, or lack its image axes."""
    if [int(size) for size in one.shape] == [int(size) for size in other.shape]:
        return te.compute(one.shape, lambda *at: function(one[at], other[at]), name=name)
    return te.compute(one.shape, lambda *at: function(one[at], reals_at(other, at[0], at[-1])), name=name)


def _window(node: Any, settings: dict[str, Any], shape: tuple[int, ...]) -> ConvWindow:
    kernel, strides = shape[2:], settings.get("strides", [1, 1])
    pads, dilations = settings.get("pads", [0] * 4), settings.get("dilations", [1, 1])
    if len({*kernel}) != 1 or len({*strides}) != 1 or len({*pads}) != 1 or {*dilations} != {1}:
        raise UserError(f"convolution {node.name or node.output[0]!r} is not square; compile this net in float32")
    return ConvWindow(int(kernel[0]), int(strides[0]), int(pads[0]), int(settings.get("group", 1)))


def _constant(value: float) -> Any:
    return tirx.const(value, "float32")


def _limited(value: Any) -> Any:
    return tirx.max(tirx.min(value, _constant(1.0)), _constant(0.0))


def _hard_sigmoid(settings: dict[str, Any]) -> Callable[[Any], Any]:
    alpha, beta = _constant(settings.get("alpha", 0.2)), _constant(settings.get("beta", 0.5))
    return lambda value: _limited(value * alpha + beta)


_FUNCTIONS: dict[str, Callable[[dict[str, Any]], Callable[[Any], Any]]] = {
    "Relu": lambda settings: lambda value: tirx.max(value, _constant(0.0)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda settings: lambda value: value * _limited(value * _constant(1 / 6) + _constant(0.5)),
    "Sigmoid": lambda settings: lambda value: _constant(1.0) / (_constant(1.0) + tirx.exp(-value)),
}
