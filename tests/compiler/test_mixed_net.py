"""A net of which some units stay in float32 equals ONNX Runtime's run of the same model, with its parts' kernels."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tvm
from integer_parts import SPACE, random_schedules, steps
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.database import joined_records
from tvmfbnet.compiler.conversions import conversion
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.export import export_parts, quantised_part
from tvmfbnet.compiler.integer_kernels import Quantisation
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.mixed_export import export_with_borders, quantised_but
from tvmfbnet.compiler.mixed_model import stretches
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.dtypes import random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.quantisation.post_training import quantise
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.borders import DEQUANTISE, QUANTISE, units_of
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


def test_a_mixed_net_equals_onnx_runtime_s_run_of_its_model_with_the_kernels_of_its_parts(
    space, net, mixed, images, target
):
    model = mixed(("stem", "layer1"))
    assert [stretch.quantised for stretch in stretches(model)] == [False, True, False, True]
    lowered, databases = lower(model, target), [ms.database.MemoryDatabase() for _ in range(2)]
    assert random_schedules(lowered, target, databases[1], only=lambda kernel: kernel.is_conv) == []
    records = joined_records(*(SimpleNamespace(records=database) for database in databases))
    machine = relax.VirtualMachine(build(lowered, target, records), tvm.cpu())
    actual = machine["main"](tvm.runtime.tensor(images[0], tvm.cpu())).numpy()
    reference = QuantisedReference(model)
    assert actual.dtype == np.float32 and actual.shape == (1, 10)
    assert steps(actual, reference.run(images[0]), float(reference.output_scale)) <= 2.0
    own = {kernel.key: kernel.name for kernel in kernels_of(lowered, target) if kernel.is_conv}
    parts = export_parts([part for unit in units_of(net.arch, space) for part in unit.parts])
    models = [*parts.values(), *(quantised_part(part, model) for part, model in parts.items())]
    of_parts = {kernel.key for model in models for kernel in kernels_of(lower(model, target), target)}
    assert own and own.keys() <= of_parts, [own[key] for key in own.keys() - of_parts]


def test_a_net_wholly_in_one_dtype_is_that_dtypes_net(mixed, exported, images, target):
    for floats, plain in ((UNITS, exported), ((), quantise(exported, images))):
        model = mixed(floats)
        (stretch,) = stretches(model)
        assert stretch.quantised is not bool(floats)
        with_units, without = (kernels_of(lower(item, target), target) for item in (model, unnamed(plain)))
        assert {kernel.key for kernel in with_units} == {kernel.key for kernel in without}


def unnamed(model):
    """A model without the metadata that name its units."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    return copy


def test_an_unknown_unit_and_missing_images_are_one_line(net, space, mixed, exported):
    with pytest.raises(UserError, match=r"no unit layer9; it has stem, layer0, layer1, head"):
        mixed(("layer9",))
    with pytest.raises(UserError, match=r"at least one calibration image"):
        quantised_but(exported, units_of(net.arch, space), ("stem",), [])


@pytest.mark.parametrize("kind", [QUANTISE, DEQUANTISE])
def test_a_conversion_rounds_as_onnx_says_whatever_the_shape(target, kind):
    dot, image = dot_product_of(target), random_tensor((1, 5, 7, 3), "float32", 4) * 10
    codes = Quantisation(0.05, 120 - dot.offset, -dot.offset, 255 - dot.offset)
    stored = (np.arange(105).reshape(1, 5, 7, 3) - dot.offset).astype(dot.codes)
    given = image if kind == QUANTISE else stored
    machine = relax.VirtualMachine(build(conversion(given.shape, kind, codes, target), target, None), tvm.cpu())
    actual = machine["main"](tvm.runtime.tensor(given, tvm.cpu())).numpy()
    if kind == QUANTISE:
        expected = np.clip(np.rint(image / np.float32(0.05)) + 120, 0, 255).astype("int32") - dot.offset
        assert np.abs(actual.astype("int32") - expected).max() <= 1 and (actual == expected).mean() > 0.95
    else:
        assert np.allclose(actual, (stored.astype("float32") - codes.zero) * np.float32(0.05), rtol=1e-6)
