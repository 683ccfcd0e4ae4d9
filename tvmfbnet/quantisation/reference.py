"""What a quantised net has to compute: the same QDQ model in ONNX Runtime, each node as ONNX defines it.

Without optimisations ONNX Runtime dequantises, computes in float32 and quantises again, node by node. The products and
sums of codes are exact up to float32's rounding, so that a code can differ from the integer result only where a value
lies between two codes: by one step of the output's scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

_Array = npt.NDArray[Any]


class QuantisedReference:
    """A QDQ model, run for comparison.

    Args:
        model: from :func:`tvmfbnet.quantisation.post_training.quantise`.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        last = next(node for node in model.graph.node if model.graph.output[0].name in node.output)
        # Of mixed dtypes, a model may begin or end in float operators.
        if quantisers:
            self.input_scale, self.input_zero = (constants[name] for name in quantisers[0].input[1:3])
        if last.op_type == "DequantizeLinear":
            self.output_scale, self.output_zero = (constants[name] for name in last.input[1:3])

    def input_codes(self, image: _Array) -> _Array:
        """A float input as uint8 codes, as the model quantises it."""
        return _codes(image, self.input_scale, self.input_zero)

    def run(self, image: _Array) -> _Array:
        """The float output for a float input; of several, the first."""
        return self.outputs(image)[0]

    def outputs(self, image: _Array) -> tuple[_Array, ...]:
        """The float outputs for a float input, in order."""
        return tuple(np.asarray(output) for output in self._session.run(None, {"input": image}))

    def output_codes(self, output: _Array) -> _Array:
        """A float output as uint8 codes."""
        return _codes(output, self.output_scale, self.output_zero)


def _codes(values: _Array, scale: _Array, zero: _Array) -> _Array:
    codes: _Array = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
    return codes
