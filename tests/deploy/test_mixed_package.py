"""A net of mixed dtypes on the device: its package equals its own model, and its conversions are timed like parts."""

import pytest
from device_samples import SMALL_SPACE

from tvmfbnet.deploy.package import Float32Units, compile_net, random_images, untrained_net
from tvmfbnet.deploy.parity import certify
from tvmfbnet.deploy.trial import chosen_dtypes
from tvmfbnet.dtypes import INT8
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.cells import MEASURED, cell_of
from tvmfbnet.latency.journal import Journal
from tvmfbnet.profiling.conversions import measure_conversions
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import ask_context
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.borders import conversions_of
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


@pytest.mark.rpc
@pytest.mark.slow
def test_a_package_of_mixed_dtypes_equals_its_model_and_conversions_are_timed_once(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL_SPACE)
    space = load_space(str(tmp_path / "small.yaml"))
    arch = Arch(tuple(layer.blocks[0] for layer in space.layers))
    net, target = untrained_net(arch, space), resolve(load_target("host,dtype=int8"))
    timing = target.timing.model_copy(update={"visits": 1, "repeats": 3, "min_repeat_ms": 1, "drift_limit": 5.0})
    target = target.model_copy(update={"timing": timing})
    with pytest.raises(LatencyError, match="nothing was measured for target host"):
        chosen_dtypes(arch, space, target, tmp_path / "logs")
    floats = Float32Units(("layer0", "head"), None)
    package = compile_net(net, target, None, tmp_path / "package", (), random_images(space, INT8), float32=floats)
    assert package.description.dtype == "int8" and package.description.float32_units == ("layer0", "head")
    with connect_device(target) as connected:
        context, endpoint = ask_context(target, connected)
        assert certify(package, net, target, endpoint).description.parity.verdict == "passed"
        journal = Journal(tmp_path / "latency.jsonl")
        with device_timer(target, endpoint) as timer:
            assert measure_conversions(space, timer, journal, context) == len(conversions_of(space)) == 6
            assert measure_conversions(space, timer, journal, context) == 0
    timed = {item.part: item for item in journal.read()}
    assert set(timed) == set(conversions_of(space)) and {item.context for item in timed.values()} == {context}
    for item in timed.values():
        assert cell_of([item]).source == MEASURED and 0 <= item.net_ms < 1.0
