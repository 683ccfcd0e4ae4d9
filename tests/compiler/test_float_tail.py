"""Nets with a map of answers or with boxes in int8: equal to ONNX Runtime, and made of the kernels of their parts."""

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from tvmfbnet.compiler.export import export_net, export_parts
from tvmfbnet.compiler.float_tail import split_tail, tail_nodes
from tvmfbnet.compiler.instrument import chain_nets, net_function
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.shapes import part_input_type
from tvmfbnet.deploy.package import random_images, untrained_net
from tvmfbnet.dtypes import INT8, random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.quantisation.fake_quantised import FakeQuantisedNet
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.relative_error import relative_error
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


@pytest.fixture(scope="module")
def target():
    return resolve(load_target("host")).for_tvm()


def a_net(space_file, head):
    space = load_space(f"{space_file}@32,classes=3,head={head}")
    return untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)


@pytest.mark.parametrize(("head", "outputs"), [("lraspp", 1), ("ssdlite", 2)])
def test_a_quantised_net_with_another_head_equals_onnx_runtime(tiny_space_file, target, head, outputs):
    net = a_net(tiny_space_file, head)
    model = export_net(net, INT8, random_images(net.space, INT8))
    lowered = lower(model, target)
    run = relax.VirtualMachine(build(lowered, target, None).jit(), tvm.cpu())["main"]
    image, reference = random_tensor((1, 1, 32, 32), "float32", 7), QuantisedReference(model)
    given = run(tvm.runtime.tensor(image, tvm.cpu()))
    got, expected = [given] if outputs == 1 else list(given), reference.outputs(image)
    assert len(got) == len(expected) == outputs
    for mine, theirs in zip(got, expected, strict=True):
        assert relative_error(mine.numpy(), theirs) < 1e-5
        assert theirs.std() > 0
    # But for what follows the last sums, kernels are integer: those of the parts, which are tuned and timed.
    kernels = {kernel.key for kernel in kernels_of(lowered, target) if kernel.is_conv}
    sums = [part for part in net.space.head if part.part != "head_resize"]
    for part, exported in export_parts(sums, INT8).items():
        assert kernels & {kernel.key for kernel in kernels_of(lower(exported, target), target)}, part.name


def test_logits_are_enlarged_in_float32_as_a_part_too(tiny_space_file, target):
    (resize,) = [part for part in a_net(tiny_space_file, "lraspp").space.head if part.part == "head_resize"]
    assert part_input_type(resize, INT8) == "float32"
    lowered = lower(export_parts([resize], INT8)[resize], target)
    assert str(lowered["main"].params[0].ty.dtype) == str(lowered["main"].ret_ty.dtype) == "float32"
    assert len(kernels_of(lowered, target)) == 1


@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_parts_in_int8_hand_codes_on_and_chain_into_a_net(tiny_space_file, target, head):
    net = a_net(tiny_space_file, head)
    parts = net.space.parts_of(net.arch)
    lowered = {part: lower(model, target) for part, model in export_parts([*dict.fromkeys(parts)], INT8).items()}
    codes = str(lowered[parts[1]]["main"].params[0].ty.dtype)
    for part in parts:
        reals = part.part in ("head_logits", "head_boxes", "head_resize")
        assert str(lowered[part]["main"].ret_ty.dtype) == ("float32" if reals else codes), part.name
    chained = chain_nets([[lowered[part] for part in parts]], target)
    result = chained[net_function(0)].ret_ty.fields[0]
    last = parts[-1]
    assert [int(size) for size in result.shape.values] == [1, last.out_height, last.out_width, last.cout]


def test_the_tail_is_what_no_sum_and_no_rounding_follows(tiny_space_file):
    for head, operations in (("classifier", set()), ("lraspp", {"Resize", "Add"})):
        net = a_net(tiny_space_file, head)
        float_model = export_net(net)
        assert {node.op_type for node in tail_nodes(float_model)} == operations
        quantised = export_net(net, INT8, random_images(net.space, INT8))
        core, tail = split_tail(quantised)
        assert (tail is None) == (not operations)
        assert core.graph.node[-1].op_type == "DequantizeLinear"
        if tail is not None:
            assert {node.op_type for node in tail.graph.node} == {*operations, "Transpose"}


def test_a_net_for_masks_can_be_fine_tuned_in_int8_and_one_for_boxes_says_why_not(tiny_space_file):
    net = a_net(tiny_space_file, "lraspp")
    images = random_images(net.space, INT8)
    quantised = export_net(net, INT8, images)
    module = FakeQuantisedNet(export_net(net), quantised).eval()
    with torch.no_grad():
        got = module(torch.from_numpy(np.concatenate(images))).numpy()
    reference = QuantisedReference(quantised)
    assert relative_error(got, np.concatenate([reference.run(image) for image in images])) < 1e-2
    boxes = a_net(tiny_space_file, "ssdlite")
    with pytest.raises(UserError, match="cannot be fine-tuned: set no fine-tuning"):
        FakeQuantisedNet(export_net(boxes), export_net(boxes, INT8, images))
