"""Post-training quantisation of ONNX models with ONNX Runtime's tools.

The result is a QDQ model: 8-bit tensors between pairs of QuantizeLinear and DequantizeLinear, weights symmetric int8
with one scale per output channel, activations asymmetric uint8 with one scale and zero point per tensor.

ONNX Runtime's tools and not torchao's PT2E, for three reasons: they take the ONNX model that the compiler takes
anyway, so that a part and a net are exported once and in one way; a QDQ model runs in ONNX Runtime, which makes the
reference that kernels are compared with and the competitor of the benchmarks the same graph; and a part takes 10 to 70
ms, PT2E traces each module again for seconds.

uint8 with a zero point gives activations after a ReLU all 256 steps, and its range is what x86 multiplies natively;
for cores that multiply signed bytes the compiler moves it by 128, which is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tvmfbnet.errors import UserError
from tvmfbnet.scratch import scratch_folder

Images = Sequence[npt.NDArray[Any]]


def quantise(model: onnx.ModelProto, images: Images, excluded: Sequence[str] = ()) -> onnx.ModelProto:
    """The QDQ form of a float model.

    Args:
        model: float32, one input named ``input``.
        images: calibration inputs, each in the shape of the model's input; activations get the range of their values.
        excluded: names of nodes that stay float.

    Raises:
        UserError: there is no image, or a value is not finite.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    with scratch_folder() as folder, _quiet():
        path = folder / "quantised.onnx"
        # A copy, because the tool moves the weights of its argument to a file.
        given = onnx.ModelProto()
        given.CopyFrom(model)
        quantize_static(
            given,
            str(path),
            _reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(excluded),
        )
        quantised = onnx.load(str(path))
    return quantised if is_quantised(quantised) else _with_borders(model, images)


def _with_borders(model: onnx.ModelProto, images: Sequence[npt.NDArray[Any]]) -> onnx.ModelProto:
    """A model of which the tools quantise nothing (a pooling alone), between quantised input and output."""
    import onnxruntime
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    bordered = onnx.ModelProto()
    bordered.CopyFrom(model)
    graph, session = bordered.graph, onnxruntime.InferenceSession(model.SerializeToString())
    ranges = {"input": images, "output": [session.run(None, {"input": image})[0] for image in images]}
    nodes = [*graph.node]
    for node in nodes:
        node.input[:] = ["input_real" if name == "input" else name for name in node.input]
        node.output[:] = ["output_real" if name == "output" else name for name in node.output]
    del graph.node[:]
    pairs = {}
    for name, values in ranges.items():
        low, high = min(0.0, *(value.min() for value in values)), max(0.0, *(value.max() for value in values))
        zero, scale = compute_scale_zp(np.float32(low), np.float32(high), np.uint8(0), np.uint8(255))
        graph.initializer.append(numpy_helper.from_array(np.array(scale, "float32"), f"{name}_scale"))
        graph.initializer.append(numpy_helper.from_array(np.array(zero, "uint8"), f"{name}_zero_point"))
        source, result = ("input", "input_real") if name == "input" else ("output_real", "output")
        terms = [f"{name}_scale", f"{name}_zero_point"]
        pairs[name] = [
            helper.make_node("QuantizeLinear", [source, *terms], [f"{name}_codes"]),
            helper.make_node("DequantizeLinear", [f"{name}_codes", *terms], [result]),
        ]
    graph.node.extend([*pairs["input"], *nodes, *pairs["output"]])
    return bordered


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether a model is in QDQ form."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _reader(images: Images) -> Any:
    """The images as ONNX Runtime reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images = iter(_checked(images))

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            image = next(self._images, None)
            return None if image is None else {"input": image}

    return Reader()


def _checked(images: Images) -> Iterator[npt.NDArray[Any]]:
    if not images:
        raise UserError("quantisation needs at least one calibration image; give it some training images")
    for number, image in enumerate(images, 1):
        if not np.isfinite(image).all():
            raise UserError(f"calibration image {number} holds values that are not finite; check the data set")
        yield image


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to preprocess the model, which folding and export did."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
