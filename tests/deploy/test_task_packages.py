"""Packages of tasks beyond classification: a net that answers for each place equals PyTorch on the device."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.description import describe_outputs, read_description
from tvmfbnet.deploy.net_files import write_net
from tvmfbnet.deploy.outputs import output_errors, outputs_of_model
from tvmfbnet.deploy.package import Package, compile_net, untrained_net
from tvmfbnet.deploy.parity import LabelledImages, certify, check_outputs, compare_answers, expected_outputs
from tvmfbnet.dtypes import FLOAT32, random_tensor
from tvmfbnet.errors import ParityError, StorageError
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.search.quantities.size import size_costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.heads import anchors_of
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve
from tvmfbnet.tasks.detection import answers


@pytest.fixture
def net(tiny_space_file):
    space = load_space(f"{tiny_space_file}@32,classes=3,head=lraspp")
    return untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)


def require_foreseen(package, space):
    """What a search says of its memory and weights, of the first block of every layer, is what was compiled."""
    choice = (0,) * len(space.layers)
    assert package.description.peak_memory_bytes == PeakMemory.of(space, FLOAT32).value(choice)
    assert package.description.weight_bytes == size_costs(space, FLOAT32).value(choice)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_that_answers_with_boxes_equals_pytorch(tiny_space_file, tmp_path):
    space, target = load_space(f"{tiny_space_file}@32,classes=3,head=ssdlite"), resolve(load_target("host"))
    net = untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    package = compile_net(net, target, None, tmp_path / "package", task="detection")
    anchors = len(anchors_of(space))
    told = {output.name: (output.shape, output.dtype) for output in package.description.outputs}
    assert told == {"scores": ((1, anchors, 3), "float32"), "boxes": ((1, anchors, 4), "float32")}
    require_foreseen(package, space)
    pixels = torch.from_numpy(random_tensor((2, 1, 32, 32), "float32", 1))
    with torch.no_grad():
        answered = [(labels[:2], boxes[:2]) for _, labels, boxes in answers(net.eval()(pixels))]
    truth = torch.stack([torch.cat([labels.unsqueeze(1), boxes], dim=1) for labels, boxes in answered])
    images = LabelledImages(pixels, truth, "detection")
    with connect_device(target) as endpoint:
        parity = certify(package, net, target, endpoint).description.parity
        compared = compare_answers(package, net, target, endpoint, images)
        timed = bench_package(package, target, endpoint)
    assert parity.verdict == "passed" and parity.error == max(parity.output_errors.values()) < parity.limit
    assert list(parity.output_errors) == ["scores", "boxes"]
    assert compared.agreement > 0.99 and compared.accuracy == pytest.approx(compared.float32_accuracy, abs=1e-3)
    assert compared.float32_accuracy > 0.5, "it is judged by its own surest answers"
    assert timed.onnxruntime_ms is not None, "whose outputs were compared, too"


def test_each_output_has_a_scale_of_its_own_and_the_worst_is_named(tiny_space_file, tmp_path):
    space = load_space(f"{tiny_space_file}@32,classes=3,head=ssdlite")
    net = untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    told = SimpleNamespace(output_names=("scores", "boxes"))
    package = SimpleNamespace(description=told, input_shape=(1, 1, 32, 32), folder=tmp_path)
    expected = iter(expected_outputs(net, package.input_shape, FLOAT32))
    small = 0.5 * FLOAT32.parity_limit
    parity = check_outputs(package, net, FLOAT32, lambda _: [scale * (1 + small) for scale in next(expected)])
    assert parity.output_errors["boxes"] == pytest.approx(small, rel=0.01)
    expected = iter(expected_outputs(net, package.input_shape, FLOAT32))
    with pytest.raises(ParityError, match=r"in output 'boxes' on the device \(limit 0.001\)"):
        check_outputs(
            package,
            net,
            FLOAT32,
            lambda _: [output * (1 + 4 * small * number) for number, output in enumerate(next(expected))],
        )


def test_outputs_that_differ_in_number_or_shape_are_no_match():
    one, other = np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32)
    two = ("output", "boxes")
    assert output_errors([[one, other]], [[one, other]], two) == [0.0, 0.0]
    assert output_errors([[one]], [[one, other]], two) == [np.inf]
    assert output_errors([[one], [other]], [[one], [one]], ["output"]) == [np.inf]
    assert output_errors([[one, one]], [[one, other]], two) == [0.0, np.inf]


def test_scores_are_held_to_what_logits_are_held_to():
    logits = np.array([[[6.0, 6.0, -4.0], [9.0, 0.0, -9.0]]], np.float32)

    def scores(values):
        return [[torch.from_numpy(values).softmax(dim=2).numpy()]]

    for error in (0.02, 0.2):  # of one logit, where two classes are equal
        moved = logits + np.array([[[error * 9, 0, 0], [0, 0, 0]]], np.float32)
        (told,) = output_errors(scores(moved), scores(logits), ["scores"])
        assert error / 4 < told < error, "the same scale"
    assert output_errors([[np.float32([[np.nan]])]], [[np.float32([[0.5]])]], ["scores"]) == [np.inf]


def test_a_package_of_before_outputs_were_named_has_one(tmp_path):
    older = {"arch": "a", "space": "s", "input_shape": [1, 1, 4, 4], "target": "host", "tvm_target": {}, "threads": 1}
    older |= {"tvm_version": "1", "kernels_needed": 0, "kernels_found": 0, "kernels_missing": []}
    older |= {"parity": {"verdict": "passed", "error": 1e-6, "limit": 1e-3}}
    (tmp_path / "package.json").write_text(json.dumps(older))
    described = read_description(tmp_path)
    assert described.output_names == ("output",) and described.parity.output_errors == {}
    assert describe_outputs(described, tmp_path) == []
    sizes = (("scores", 11), ("boxes", 4))
    several = [{"name": name, "shape": [1, 9, size], "dtype": "float32"} for name, size in sizes]
    named = {"outputs": several, "class_names": [f"class {number}" for number in range(11)]}
    (tmp_path / "package.json").write_text(json.dumps({**older, **named}))
    told = describe_outputs(read_description(tmp_path), tmp_path)
    assert told == ["outputs: scores 1x9x11, boxes 1x9x4", f"11 classes, named in {tmp_path / 'package.json'}"]
    (tmp_path / "package.json").write_text(
        json.dumps({**older, "outputs": [{"name": "x", "shape": [0], "dtype": "y"}]})
    )
    with pytest.raises(StorageError, match=r"package.json.*outputs"):
        read_description(tmp_path)


def test_an_exported_file_has_the_outputs_of_a_package(tiny_space_file, tmp_path):
    space = load_space(f"{tiny_space_file}@32,classes=3,head=ssdlite")
    net = untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    write_net(net, tmp_path / "net.onnx")
    assert [output.name for output in outputs_of_model(onnx.load(tmp_path / "net.onnx"))] == ["scores", "boxes"]


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_with_a_map_of_answers_equals_pytorch_and_tells_its_task(net, tmp_path):
    target = resolve(load_target("host"))
    names = ("background", "one", "other")
    package = compile_net(net, target, None, tmp_path / "package", names, task="segmentation")
    require_foreseen(package, net.space)
    pixels = torch.from_numpy(random_tensor((3, 1, 32, 32), "float32", 1))
    with torch.no_grad():
        answers = torch.nn.functional.interpolate(net.eval()(pixels), size=(32, 32), mode="bilinear").argmax(dim=1)
    images = LabelledImages(pixels, answers.to(torch.uint8), "segmentation")
    with connect_device(target) as endpoint:
        parity = certify(package, net, target, endpoint).description.parity
        compared = compare_answers(package, net, target, endpoint, images)
    assert parity.verdict == "passed" and parity.error < parity.limit
    assert compared.agreement > 0.99 and compared.accuracy > 0.99 and compared.float32_accuracy == 1.0
    assert compared.metric == "mIoU"
    told = Package.load(tmp_path / "package").description
    assert told.task == "segmentation" and told.class_names == names
