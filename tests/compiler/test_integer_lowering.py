"""A part in int8, compiled with schedules or without, equals ONNX Runtime's run of the same QDQ model."""

import numpy as np
import onnx
import pytest
import tvm
from integer_parts import SPACE, input_of, random_schedules, steps
from tvm import relax
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.compiler.export import export_net, export_parts
from tvmfbnet.compiler.integer_lowering import lower_quantised
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.dtypes import INT8, random_tensor
from tvmfbnet.errors import UserError
from tvmfbnet.nets.network import build_net
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# Each way of multiplying that this kind of machine may have; the host's own is among them.
X86 = {
    "host": None,
    "avx2": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell", "num-cores": 1},
    "sse": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64", "num-cores": 1},
}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return load_space(str(path))


@pytest.fixture(scope="module")
def models(space):
    return export_parts(space.distinct_parts(), INT8)


def x86_target(name):
    return resolve(load_target("host")).for_tvm() if X86[name] is None else tvm.target.Target(X86[name])


def is_telling(part):
    """Stem, classifier, and a block with groups and a stride: every way in which a target multiplies."""
    return part.part in ("stem", "head_linear") or (part.block == "k5_e1_g2" and part.stride == 2)


@pytest.mark.parametrize("name", X86)
def test_every_part_equals_the_reference_within_a_step_whatever_its_schedules(models, name):
    target = x86_target(name)
    chosen = models if name == "host" else {part: models[part] for part in models if is_telling(part)}
    for number, (part, model) in enumerate(chosen.items()):
        mod, database = lower(model, target), ms.database.MemoryDatabase()
        source, expected, step = input_of(part, model, target)
        assert random_schedules(mod, target, database, number) == []
        for records in (None, database) if part.part == "head_linear" else (database,):
            machine = relax.VirtualMachine(build(mod, target, records), tvm.cpu())
            actual = machine["main"](tvm.runtime.tensor(source, tvm.cpu())).numpy()
            assert steps(actual, expected, step) <= 1.0 + 1e-3, part.name


def test_kernels_of_pixel_pairs_equal_the_reference_without_their_instruction(models):
    arm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a710", "num-cores": 1}
    compiled_for, host = tvm.target.Target(arm), x86_target("host")
    for part, model in models.items():
        if part.block not in ("k3_e3", "k5_e1_g2") or part.stride == 1:
            continue
        mod = lower(model, compiled_for)
        assert any("smmla" in kernel.mod.script() for kernel in kernels_of(mod, compiled_for))
        source, expected, step = input_of(part, model, compiled_for)
        machine = relax.VirtualMachine(build(mod, host, None), tvm.cpu())
        actual = machine["main"](tvm.runtime.tensor(source, tvm.cpu())).numpy()
        assert steps(actual, expected, step) <= 1.0 + 1e-3, part.name


def test_activations_stay_codes_and_a_net_has_the_kernels_of_its_parts(space, models):
    target = x86_target("host")
    of_parts = {kernel.key for model in models.values() for kernel in kernels_of(lower(model, target), target)}
    net = build_net(parse_arch("k3_e3/k5_e1_g2", space), space).eval()
    images = [random_tensor((1, 3, 14, 14), "float32", seed) for seed in range(3)]
    model = export_net(net, INT8, images)
    mod = lower(model, target)
    assert {kernel.key for kernel in kernels_of(mod, target)} <= of_parts
    machine = relax.VirtualMachine(build(mod, target, None), tvm.cpu())
    actual, reference = machine["main"](tvm.runtime.tensor(images[0], tvm.cpu())).numpy(), QuantisedReference(model)
    expected = reference.run(images[0])
    assert actual.dtype == np.float32 and actual.shape == (1, 10)
    assert steps(actual, expected, float(reference.output_scale)) <= 2.0


def test_what_has_no_integer_kernel_is_one_line(models):
    target = x86_target("host")
    model = onnx.ModelProto()
    model.CopyFrom(next(iter(models.values())))
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "ConvTranspose"
    with pytest.raises(UserError, match=r"no integer kernel for the operation ConvTranspose; compile .* float32"):
        lower_quantised(model, target)
    other = onnx.ModelProto()
    other.CopyFrom(next(iter(models.values())))
    zero = next(item for item in other.graph.initializer if item.name.endswith("weight_zero_point"))
    zero.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(zero) + np.int8(1), zero.name))
    with pytest.raises(UserError, match="zero points, kernels take symmetric weights only"):
        lower_quantised(other, target)
