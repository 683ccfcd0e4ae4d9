"""A fake-quantised net computes what ONNX Runtime does with its exported QDQ model, before and after training."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.integer_lowering import _FUNCTIONS
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.quantisation.fake_quantised import _OPERATIONS, FakeQuantisedNet
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space

# Every operation that nets of shipped spaces have: a shuffle, squeeze-and-excitation, hard swish, a strided skip.
SPACE = """
input: {channels: 3, height: 20, width: 20}
classes: 10
stem: {channels: 8, stride: 1}
stages:
  - {channels: 8, layers: 2, stride: 1}
  - {channels: 12, layers: 2, stride: 2}
blocks: [k5_e3, k3_e1_g2, k3_e2_se_hswish, skip]
last_channels: 16
"""
BLOCKS = ("k5_e3", "k3_e1_g2", "skip", "k3_e2_se_hswish")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "every.yaml"
    path.write_text(SPACE)
    space = load_space(str(path))
    return export_parts([part for part in space.parts_of(Arch(BLOCKS)) if part.part != "head_pool"])


def stepped(net, images, steps):
    """The net after steps of gradient descent on a loss without meaning."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        net.train()
        loss = (net(torch.from_numpy(images[step % len(images)])) - 0.3).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def differences(net, exported, images):
    """Steps between the codes of the module and those of ONNX Runtime."""
    reference = QuantisedReference(exported)
    with torch.no_grad():
        outputs = [net(torch.from_numpy(image)).numpy() for image in images]
    ours = [reference.output_codes(output).astype(int) for output in outputs]
    theirs = [reference.output_codes(reference.run(image)).astype(int) for image in images]
    assert len(np.unique(theirs)) > 30, "an output that is nearly constant says nothing"
    return np.abs(np.stack(ours) - np.stack(theirs))


def test_each_part_equals_its_exported_qdq_model_before_and_after_training(models):
    for part, model in models.items():
        shape = part_input_shape(part)
        images = [random_tensor(shape, "float32", seed) for seed in range(4)]
        quantised = quantise(model, images)
        net = FakeQuantisedNet(model, quantised).eval()
        for name, values in constants(net.to_model()).items():
            np.testing.assert_allclose(values, constants(quantised)[name], rtol=1e-6, err_msg=f"{part.name} {name}")
        for steps in (0, 3):
            exported = stepped(net, images, steps).to_model()
            onnx.checker.check_model(exported)
            assert [str(node) for node in exported.graph.node] == [str(node) for node in quantised.graph.node]
            steps_off = differences(net, exported, images)
            # A value between two codes may be rounded to either, and moves what is computed from it.
            where = f"{part.name} after {steps} steps"
            assert steps_off.max() <= 2 and (steps_off > 1).mean() < 1e-3 and (steps_off > 0).mean() < 0.02, where
        changed = [name for name, values in constants(exported).items() if (values != constants(quantised)[name]).any()]
        kinds = {name.rpartition("_")[0].rpartition(".")[2] + "_" + name.rpartition("_")[2] for name in changed}
        assert {"weight_quantized", "weight_scale", "bias_quantized"} <= kinds, part.name


def test_a_rounding_left_out_is_noticed(models):
    part, model = next((part, model) for part, model in models.items() if part.block == "k5_e3")
    images = [random_tensor(part_input_shape(part), "float32", seed) for seed in range(4)]
    quantised = quantise(model, images)
    net = FakeQuantisedNet(model, quantised).eval()
    inner = next(node for node in quantised.graph.node if node.op_type == "Conv").output[0]
    net._rounds.remove(f"{inner}_QuantizeLinear_Output")
    assert (differences(net, quantised, images) > 0).mean() > 0.05


def test_a_batch_is_computed_as_its_images_are_and_ranges_follow_only_in_training(models):
    part, model = next((part, model) for part, model in models.items() if part.block == "k3_e1_g2")
    images = [random_tensor(part_input_shape(part), "float32", seed) for seed in range(3)]
    net = FakeQuantisedNet(model, quantise(model, images)).eval()
    batch = torch.from_numpy(np.concatenate(images))
    bounds = {name: tensor.clone() for name, tensor in net.named_buffers()}
    with torch.no_grad():
        assert torch.allclose(net(batch), torch.cat([net(image[None]) for image in batch]), atol=1e-5)
        assert all(torch.equal(tensor, bounds[name]) for name, tensor in net.named_buffers())
        net.train()(10 * batch)
    first = next(iter(bounds))
    moved = dict(net.named_buffers())
    expected = bounds[first] + 0.01 * (10 * torch.stack(torch.aminmax(batch)).double() - bounds[first])
    assert torch.allclose(moved[first], expected), "the input's range"
    assert all(tensor[0] == 0 for name, tensor in moved.items() if bounds[name][0] == 0), "a ReLU's stays at zero"


def test_a_channel_whose_bias_dwarfs_its_weights_exports_as_it_was_trained(models):
    part, model = next((part, model) for part, model in models.items() if part.part == "stem")
    images = [random_tensor(part_input_shape(part), "float32", seed) for seed in range(2)]
    net = FakeQuantisedNet(model, quantise(model, images)).eval()
    with torch.no_grad():
        weight, bias = net._weights_of(next(node for node in net._nodes if node.op_type == "Conv"))
        weight[0], weight[1], bias[0] = 1e-12, 0.0, 0.9
    assert differences(net, net.to_model(), images).max() <= 1


def test_every_operation_with_an_integer_kernel_can_be_trained():
    assert set(_FUNCTIONS) <= set(_OPERATIONS)
    x = torch.randn(2, 3, 4, 4)
    for name in _FUNCTIONS:
        node = helper.make_node(name, ["x"], ["y"])
        model = helper.make_model(helper.make_graph([node], "one", *[[value(name)] for name in "xy"]))
        expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(_OPERATIONS[name]({}, [x]).numpy(), expected, atol=1e-6)


def value(name):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3, 4, 4])


def test_an_operation_without_a_form_to_train_is_refused(models):
    part, model = next((part, model) for part, model in models.items() if part.part == "stem")
    quantised = quantise(model, [random_tensor(part_input_shape(part), "float32")])
    node = next(node for node in quantised.graph.node if node.op_type == "Conv")
    node.op_type = "ConvTranspose"
    with pytest.raises(UserError, match="the operation ConvTranspose cannot be fine-tuned"):
        FakeQuantisedNet(model, quantised)
