"""Post-training quantisation: what a QDQ model contains, and the input that it refuses."""

import numpy as np
import pytest
from onnx import numpy_helper

from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.quantisation.post_training import is_quantised, quantise
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.space.registry import load_space


@pytest.fixture(scope="module")
def exported():
    space = load_space("fbnet_mini")
    part = next(part for part in space.distinct_blocks() if part.block == "k3_e3")
    return part, export_parts([part])[part]


def test_weights_are_symmetric_int8_per_channel_and_activations_uint8(exported):
    part, model = exported
    before = model.SerializeToString()
    quantised = quantise(model, [random_tensor(part_input_shape(part), "float32")])
    assert model.SerializeToString() == before and not is_quantised(model) and is_quantised(quantised)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    weights = {name: values for name, values in constants.items() if name.endswith("weight_quantized")}
    assert len(weights) == 3
    for name, values in weights.items():
        assert values.dtype == np.int8
        assert constants[name.replace("_quantized", "_scale")].shape == (len(values),)
        assert not constants[name.replace("_quantized", "_zero_point")].any()
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8 and constants[node.input[1]].size == 1


def test_a_quantised_block_is_close_to_the_float_one(exported):
    part, model = exported
    image = random_tensor(part_input_shape(part), "float32", 7)
    reference = QuantisedReference(quantise(model, [image]))
    import onnxruntime

    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": image})[0]
    error = np.abs(reference.run(image) - expected)
    assert 0 < error.mean() < 0.02 * np.abs(expected).max()


def test_quantisation_refuses_no_images_and_values_that_are_not_finite(exported):
    part, model = exported
    with pytest.raises(UserError, match="at least one calibration image"):
        quantise(model, [])
    image = random_tensor(part_input_shape(part), "float32")
    image.flat[3] = np.nan
    with pytest.raises(UserError, match="calibration image 2 holds values that are not finite"):
        quantise(model, [np.zeros_like(image), image])
