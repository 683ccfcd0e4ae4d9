"""A whole net in int8 as a package: equal to its own quantised model on the device, and refused without images."""

import pytest
from device_samples import SMALL_SPACE

from tvmfbnet.deploy.package import compile_net, random_images, untrained_net
from tvmfbnet.deploy.parity import certify
from tvmfbnet.dtypes import INT8
from tvmfbnet.errors import ParityError, UserError
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


@pytest.mark.rpc
@pytest.mark.slow
def test_an_int8_package_equals_its_quantised_model_on_the_device(tmp_path):
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
        other = compile_net(net, target, None, tmp_path / "other", images=[1000 * random_images(space, INT8)[0]])
        package.model.write_bytes(other.model.read_bytes())
        with pytest.raises(ParityError, match="differs"):
            certify(package, net, target, endpoint)
