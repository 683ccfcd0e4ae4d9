"""Packages of tasks beyond classification: a net that answers for each place equals PyTorch on the device."""

import pytest
import torch

from tvmfbnet.compiler.export import export_parts
from tvmfbnet.deploy.package import Package, compile_net, random_images, untrained_net
from tvmfbnet.deploy.parity import LabelledImages, certify, compare_answers
from tvmfbnet.dtypes import INT8, random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


@pytest.fixture
def net(tiny_space_file):
    space = load_space(f"{tiny_space_file}@32,classes=3,head=lraspp")
    return untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_that_answers_with_boxes_equals_pytorch(tiny_space_file, tmp_path):
    space, target = load_space(f"{tiny_space_file}@32,classes=3,head=ssdlite"), resolve(load_target("host"))
    net = untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    package = compile_net(net, target, None, tmp_path / "package", task="detection")
    with connect_device(target) as endpoint:
        parity = certify(package, net, target, endpoint).description.parity
    assert parity.verdict == "passed" and parity.error < parity.limit


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_with_a_map_of_answers_equals_pytorch_and_tells_its_task(net, tmp_path):
    target = resolve(load_target("host"))
    names = ("background", "one", "other")
    package = compile_net(net, target, None, tmp_path / "package", names, task="segmentation")
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


def test_a_net_without_a_classifier_cannot_be_quantised_and_says_so(net, tmp_path):
    target = resolve(load_target("host").model_copy(update={"dtype": INT8.name}))
    with pytest.raises(UserError, match="head lraspp cannot be quantised: compile in float32"):
        compile_net(net, target, None, tmp_path, images=random_images(net.space, INT8))
    with pytest.raises(UserError, match=r"part head_aspp/.* cannot be quantised"):
        export_parts(net.space.head, INT8)
