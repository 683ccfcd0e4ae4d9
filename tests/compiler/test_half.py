"""Float16: sums in float32 by default, in half where a schedule says so and the CPU can, and a bound on their error."""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import tvm
from brief_target import brief_target
from tvm import relax

from tvmfbnet.autotune import half_sums
from tvmfbnet.autotune.builder_pool import build_candidate
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.half_sums import FloatSums, OutputReference
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts, part_module
from tvmfbnet.compiler.library import linker
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.compiler.wide_sums import narrow_half_sums
from tvmfbnet.dtypes import FLOAT16, FLOAT32, random_tensor
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import KernelJob, OutputCheck, Repeats, time_kernels
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve


def aarch64(mcpu: str) -> tvm.target.Target:
    return tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "num-cores": 1})


def convs_of(parts, target: tvm.target.Target):
    """The distinct conv kernels of parts in float16, each with its shape."""
    models = export_parts(list(dict.fromkeys(parts)), FLOAT16).values()
    kernels = {item.key: item for model in models for item in kernels_of(lower(model, target), target)}
    return [(kernel, shape_of(kernel.mod)) for kernel in kernels.values() if kernel.is_conv]


@cache
def mini_convs():
    """The pointwise, depthwise and full convs of fbnet_mini's widest blocks, and the classifier, for Cortex-A76."""
    space = load_space("fbnet_mini")
    parts = [*space.fixed_parts(), *(layer.cell("k3_e6") for layer in space.layers)]
    return convs_of(parts, aarch64("cortex-a76"))


def assembly(kernel, knobs: Knobs, target: tvm.target.Target) -> str:
    scheduled = narrow_half_sums(apply_knobs(kernel.mod, shape_of(kernel.mod), knobs).mod)
    return str(tvm.driver.build(scheduled, target=target).inspect_source("s"))


def test_each_part_equals_pytorch_in_float32_and_takes_floats_at_the_nets_borders():
    space, target = load_space("fbnet_mini"), resolve(load_target("host")).for_tvm()
    parts = [*space.fixed_parts(), space.layers[1].cell("k3_e6"), space.layers[2].cell("k5_e3")]
    for part, model in export_parts(parts, FLOAT16).items():
        machine = relax.VirtualMachine(build(lower(model, target), target, None).jit(), tvm.cpu())
        given = random_tensor(part_input_shape(part), part_input_type(part, FLOAT16))
        got = machine["main"](tvm.runtime.tensor(given, tvm.cpu())).numpy()
        at_border = part.part == "stem", part.part == "head_linear"
        assert [given.dtype == np.float32, got.dtype == np.float32] == list(at_border)
        with torch.no_grad():
            expected = part_module(part, FLOAT32)(torch.from_numpy(given).float()).numpy()
        assert 1e-6 < relative_error(got, expected) < FLOAT16.parity_limit / 3, part.name


def test_every_pointwise_kernel_for_cortex_a76_multiplies_eight_halves_an_instruction():
    target = aarch64("cortex-a76")
    registers = registers_of(target)
    assert registers.halves and registers.lanes(2) == 8
    pointwise = [(kernel, shape) for kernel, shape in mini_convs() if shape.kind == "conv" and shape.kernel == 1]
    assert len(pointwise) > 6
    for kernel, shape in pointwise:
        ways = [knobs for knobs in all_knobs(shape, registers) if knobs.sum_bytes == 2 and knobs.lanes == 8]
        knobs = ways[len(ways) // 2]
        text = assembly(kernel, knobs, target)
        assert re.search(r"fmla\tv\d+\.8h", text) and not re.search(r"fmla\tv\d+\.4s", text), kernel.name
        # Long sums are added up in chunks: a few conversions and float32 additions a chunk.
        assert (knobs.chunk > 0) == (shape.reduction > 32) == bool(re.search(r"fadd\tv\d+\.4s", text))


def test_sums_in_half_of_every_kind_of_kernel_stay_within_the_limit():
    target, space = resolve(load_target("host")).for_tvm(), load_space("fbnet_mini")
    registers = replace(registers_of(target), halves=True)
    convs = convs_of([*space.fixed_parts(), space.layers[1].cell("k3_e6")], target)
    assert {shape.kind for _, shape in convs} == {"conv", "depthwise", "matmul"}
    for kernel, shape in convs:
        ways = [knobs for knobs in all_knobs(shape, registers) if knobs.sum_bytes]
        knobs, reference = ways[len(ways) // 2], FloatSums(kernel).reference
        scheduled = narrow_half_sums(apply_knobs(kernel.mod, shape, knobs).mod)
        arguments = [
            tvm.runtime.tensor(random_tensor(size, dtype, index), tvm.cpu())
            for index, (dtype, size) in enumerate(reference.arguments)
        ]
        tvm.driver.build(scheduled, target=target)["main"](*arguments)
        assert 0 < relative_error(arguments[-1].numpy(), reference.output) < reference.limit, (kernel.name, knobs)


@pytest.mark.parametrize("name", ["mali", "apple_gpu"])
def test_gpu_kernels_store_halves_and_add_up_in_float32(name):
    target = resolve(load_target(f"{name},dtype=float16")).for_tvm()
    (model,) = export_parts([load_space("fbnet_mini").head[0]], FLOAT16).values()
    built = _imports(build(lower(model, target), target, None).mod)
    (text,) = [module.inspect_source() for module in built if module.kind == target.kind.name]
    assert re.search(r"half\* (restrict )?param_0_ptr", text) and re.search(r"float\d? \w*conv2d_nhwc\w*\[", text)
    assert ("cl_khr_fp16 : enable" in text) == (name == "mali")


def _imports(module):
    return [module, *(inner for imported in module.imports for inner in _imports(imported))]


def test_a_cpu_that_only_converts_halves_adds_up_in_float32():
    target = aarch64("cortex-a72")
    registers = registers_of(target)
    assert not registers.halves
    for kernel, shape in convs_of([load_space("fbnet_mini").layers[1].cell("k3_e6")], target):
        ways = all_knobs(shape, registers)
        assert not any(knobs.sum_bytes for knobs in ways)
        text = assembly(kernel, max(ways, key=lambda knobs: knobs.lanes), target)
        assert "fcvtl" in text and "fcvtn" in text and not re.search(r"fmla\tv\d+\.[48]h", text)


def test_knobs_of_other_dtypes_are_what_they_were():
    _, shape = next(item for item in mini_convs() if item[1].reduction > 32)
    single = replace(shape, element_bytes=4)
    registers = registers_of(aarch64("cortex-a76"))
    assert not any(knobs.sum_bytes for knobs in all_knobs(single, registers))
    assert all_knobs(single, registers) == all_knobs(single, replace(registers, halves=False))
    assert "sum_bytes" not in all_knobs(single, registers)[0].to_dict()
    half = next(knobs for knobs in all_knobs(shape, registers) if knobs.chunk)
    assert Knobs(**half.to_dict()) == half
    assert len({half.key, replace(half, chunk=0).key, replace(half, chunk=0, sum_bytes=0).key}) == 3


def test_weights_and_activations_of_the_model_are_halves_and_its_borders_floats():
    space = load_space("fbnet_mini")
    (model,) = export_parts([space.head[2]], FLOAT16).values()
    assert {weights.data_type for weights in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def checked_job(tmp_path_factory):
    """A kernel of 96 products with its sums in half, for this machine, and what it should give."""
    folder = tmp_path_factory.mktemp("checked")
    (folder / "mine.yaml").write_text(brief_target() + "dtype: float16\n")
    target = resolve(load_target(str(folder / "mine.yaml")))
    compiled_for, part = target.for_tvm(), load_space("fbnet_mini").layers[1].cell("k3_e6")
    (model,) = export_parts([part], FLOAT16).values()
    kernels = [item for item in kernels_of(lower(model, compiled_for), compiled_for) if item.is_conv]
    kernel = max(kernels, key=lambda item: shape_of(item.mod).reduction)
    shape = shape_of(kernel.mod)
    ways = all_knobs(shape, replace(registers_of(compiled_for), halves=True))
    knobs = next(knobs for knobs in ways if knobs.sum_bytes)
    scheduled = apply_knobs(kernel.mod, shape, knobs)
    library, _, _ = build_candidate(
        tvm.ir.save_json(scheduled.mod), target.tvm_json(), linker(target, trial=True), 0.0, is_checked=True
    )
    (folder / "candidate.so").write_bytes(library)
    from tvmfbnet.autotune.candidate import ScheduleCandidate

    candidate = ScheduleCandidate.of(scheduled, knobs, FloatSums(kernel).reference)
    np.save(folder / "expected.npy", candidate.reference.output)
    return target, folder, candidate


@pytest.mark.rpc
def test_sums_in_half_that_are_off_by_more_than_the_limit_are_a_failed_trial(checked_job):
    target, folder, candidate = checked_job
    reference: OutputReference = candidate.reference
    assert reference.limit == half_sums.LIMIT and 0 < reference.limit < FLOAT16.parity_limit
    np.save(folder / "wrong.npy", np.roll(reference.output, 1))
    jobs = []
    for expected, limit in (("expected", 0.01), ("expected", 1e-5), ("wrong", 0.01), ("expected", 0.01)):
        check = OutputCheck(reference.arguments, str(folder / f"{expected}.npy"), limit)
        jobs.append(KernelJob(str(folder / "candidate.so"), candidate.arguments, None, check))
    with connect_device(target) as endpoint, worker_for(target, endpoint) as worker:
        timings = worker.call(time_kernels, jobs, Repeats(1, 2), seconds=120)
    assert [timing.kind for timing in timings] == ["", "inexact", "inexact", ""]
    assert [timing.best_ms is None for timing in timings] == [False, True, True, False]
    # Halves do round: the error is there, and it is small.
    off = float(re.search(r"off by (\S+) relative \(limit 1e-05\)", timings[1].error)[1])
    assert 1e-4 < off < 0.01
