"""A whole net in int8 as a package: equal to its own quantised model on the device, and refused without images."""

import json

import pytest
import torch
from device_samples import SMALL_SPACE

from tvmfbnet.deploy.package import compile_net, random_images, untrained_net
from tvmfbnet.deploy.parity import LabelledImages, certify
from tvmfbnet.dtypes import INT8, random_tensor
from tvmfbnet.errors import ParityError, UserError
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def check_accuracy(package, net, target, endpoint, capsys):
    """Classes are compared with those in float32; what loses more than it may is refused, unless images are too few."""
    space = net.space
    shape = (120, space.input_channels, space.height, space.width)
    pixels = torch.from_numpy(random_tensor(shape, "float32", 1))
    with torch.no_grad():
        images = LabelledImages(pixels, net.eval()(pixels).argmax(dim=1))
    told = certify(package, net, target, endpoint, images, 100.0).description.parity
    assert told.float32_accuracy == 1.0 and told.accuracy == told.agreement > 0.5 and told.images == 120
    # As if nothing had been allowed, not even to be as good.
    with pytest.raises(ParityError, match=r"in int8 the net loses .* more than -1; .* allow more with max_acc"):
        certify(package, net, target, endpoint, images, -1.0)
    failed = json.loads((package.folder / "package.json").read_text())["parity"]
    assert failed["verdict"] == "failed" and "int8" in failed["reason"]
    few = LabelledImages(images.pixels[:20], images.labels[:20])
    assert certify(package, net, target, endpoint, few, -1.0).description.parity.verdict == "passed"
    assert "20 test images are too few to tell what int8 costs in accuracy" in capsys.readouterr().err


@pytest.mark.rpc
@pytest.mark.slow
def test_an_int8_package_equals_its_quantised_model_on_the_device(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL_SPACE)
    space = load_space(str(tmp_path / "small.yaml"))
    net, target = untrained_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space), load_target("host")
    target = resolve(target.model_copy(update={"dtype": INT8.name}))
    with pytest.raises(UserError, match="at least one calibration image"):
        compile_net(net, target, None, tmp_path / "package")
    package = compile_net(net, target, None, tmp_path / "package", images=random_images(space, INT8))
    assert package.description.dtype == "int8" and package.description.input_dtype == "float32"
    with connect_device(target) as endpoint:
        checked = certify(package, net, target, endpoint)
        assert checked.description.parity.verdict == "passed"
        check_accuracy(checked, net, target, endpoint, capsys)
        other = compile_net(net, target, None, tmp_path / "other", images=[1000 * random_images(space, INT8)[0]])
        package.model.write_bytes(other.model.read_bytes())
        with pytest.raises(ParityError, match="differs"):
            certify(package, net, target, endpoint)
