"""A net of which some units stay in float32 equals ONNX Runtime's run of the same model, with its parts' kernels."""

import numpy as np
import onnxruntime
import pytest
import tvm
from integer_parts import SPACE
from tvm import relax

from tvmfbnet.compiler.export import export_net, export_parts
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.mixed_export import export_mixed_net, export_with_borders, quantised_but
from tvmfbnet.compiler.mixed_model import stretches
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.dtypes import FLOAT32, INT8, random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.borders import units_of
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

ARCH = "k3_e3/k3_e1_se_hswish"
UNITS = ("stem", "layer0", "layer1", "head")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return load_space(str(path))


@pytest.fixture(scope="module")
def net(space):
    return untrained_net(parse_arch(ARCH, space), space)


@pytest.fixture(scope="module")
def images():
    return [random_tensor((1, 3, 14, 14), "float32", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def target():
    return resolve(load_target("host")).for_tvm()


@pytest.fixture(scope="module")
def exported(net):
    return export_with_borders(net)


@pytest.fixture(scope="module")
def mixed(space, net, images, exported):
    """The model with these units in float32, from one export."""
    return lambda floats: quantised_but(exported, units_of(net.arch, space), floats, images)


def run(model, target, image):
    machine = relax.VirtualMachine(build(lower(model, target), target, None), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy()


def expected_of(model, image):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"input": image})[0]


@pytest.mark.parametrize("floats", [("stem",), ("layer0",), ("layer1", "head"), ("stem", "layer1"), UNITS, ()])
def test_a_mixed_net_equals_onnx_runtime_s_run_of_its_model(mixed, images, target, floats):
    model = mixed(floats)
    dtypes = [name in floats for name in UNITS]
    assert len(stretches(model)) == 1 + sum(one != other for one, other in zip(dtypes, dtypes[1:], strict=False))
    actual, expected = run(model, target, images[0]), expected_of(model, images[0])
    assert actual.dtype == np.float32 and actual.shape == (1, 10)
    assert np.abs(actual - expected).max() <= 1e-2 * np.abs(expected).max()


def test_the_kernels_of_a_mixed_net_are_those_of_its_parts_in_their_dtypes(space, net, mixed, target):
    units = units_of(net.arch, space)
    models = {dtype: export_parts([part for unit in units for part in unit.parts], dtype) for dtype in (FLOAT32, INT8)}
    of_parts = {kernel.key for parts in models.values() for model in parts.values() for kernel in kernels_of(lower(model, target), target)}
    for floats in (("stem", "layer1"), ("layer0", "head")):
        lowered = lower(mixed(floats), target)
        kernels = {kernel.key: kernel.name for kernel in kernels_of(lowered, target) if kernel.is_conv}
        assert kernels and kernels.keys() <= of_parts, [kernels[key] for key in kernels.keys() - of_parts]
