"""Hand-written schedules: whatever the knobs, a kernel computes what its unscheduled form computes."""

import random
from itertools import product

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import build as build_library
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.compiler.scheduled_kernels import for_codegen
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# Whether the last tile has fewer channels, and whether fewer pixels.
CUTS = [(True, False), (False, True), (True, True)]
SPACE = """
input: {channels: 3, height: 28, width: 28}
classes: 10
stem: {channels: 8, stride: 2}
stages:
  - {channels: 8, layers: 1, stride: 1}
  - {channels: 24, layers: 1, stride: 2}
blocks: [k3_e3, k5_e1_g2, skip]
last_channels: 40
"""


@pytest.fixture(scope="module")
def compiled_for():
    return tvm.target.Target(resolve(load_target("host")).tvm)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory, compiled_for):
    """The lowered parts of a small space that has every kind of kernel, odd channel counts included."""
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    models = export_parts(load_space(str(path)).distinct_parts())
    return {part: lower(model, compiled_for) for part, model in models.items()}


@pytest.fixture(scope="module")
def kernels(lowered, compiled_for):
    by_key = {kernel.key: kernel for mod in lowered.values() for kernel in kernels_of(mod, compiled_for)}
    return list(by_key.values())


def output_of(mod, arguments, compiled_for):
    """Runs a kernel; the last argument is its output."""
    tensors = [tvm.runtime.tensor(argument, tvm.cpu()) for argument in arguments]
    build(mod, target=compiled_for)["main"](*tensors)
    return tensors[-1].numpy()


def test_every_kernel_of_a_space_has_a_template(kernels):
    shapes = [shape_of(kernel.mod) for kernel in kernels]
    missing = [kernel.name for kernel, shape in zip(kernels, shapes, strict=True) if shape is None]
    assert all("reshape" in name and "conv" not in name for name in missing), missing
    assert {shape.kind for shape in shapes if shape} == {"conv", "depthwise", "matmul", "pool", "move"}
    assert {shape.stride for shape in shapes if shape} == {1, 2}
    assert any(shape.kind == "conv" and shape.group < shape.channels for shape in shapes if shape)


def test_schedules_compute_what_the_kernel_computes(kernels, compiled_for):
    chooser, rng = random.Random(0), np.random.default_rng(0)
    registers = registers_of(compiled_for)
    for kernel in kernels:
        shape = shape_of(kernel.mod)
        if shape is None:
            continue
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        expected = output_of(kernel.mod, arguments, compiled_for)
        ways = all_knobs(shape, registers)
        for knobs in chooser.sample(ways, min(3, len(ways))):
            scheduled = ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs).schedule
            # Built as the compiler builds it: the weights arrive in their old layout and are re-laid out inside.
            actual = output_of(scheduled.mod, arguments, compiled_for)
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4, err_msg=f"{shape} {knobs}")


def test_inputs_that_are_loaded_as_vectors_give_the_same_sums(kernels, compiled_for):
    """What ARM cores get, run here: grouped and strided kernels, and vectors of four and of two channels."""
    chooser, rng, staged = random.Random(1), np.random.default_rng(1), set()
    registers = Registers(32, 16, reads_operands=False)
    for kernel in kernels:
        shape = shape_of(kernel.mod)
        ways = [knobs for knobs in all_knobs(shape, registers) if knobs.staged] if shape is not None else []
        if not ways:
            continue
        knobs = chooser.choice([knobs for knobs in ways if knobs.staged not in staged] or ways)
        staged.add(knobs.staged)
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        expected = output_of(kernel.mod, arguments, compiled_for)
        actual = output_of(apply_knobs(kernel.mod, shape, knobs).mod, arguments, compiled_for)
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4, err_msg=f"{shape} {knobs}")
    assert staged == {2, 4}


def kind_of(shape, knobs):
    return shape.cuts(knobs.columns, knobs.channels), knobs.parallel


@pytest.mark.parametrize("threads", [1, 2])
def test_tiles_that_end_with_the_image_and_with_the_channels_are_cut(kernels, threads):
    """What CPUs with 16 registers get where 7x7 pixels and five vectors of channels have no good divisor."""
    chooser, rng, seen = random.Random(2), np.random.default_rng(2), set()
    registers = Registers(16, 32, threads)
    options = {**resolve(load_target("host")).tvm, "num-cores": threads}
    for kernel in kernels:
        shape = shape_of(kernel.mod)
        ways = [] if shape is None else all_knobs(shape, registers)
        cuts = {kind: [way for way in ways if kind_of(shape, way) == kind] for kind in product(CUTS, range(threads))}
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        for kind, fitting in cuts.items():
            for knobs in chooser.sample(fitting, min(2, len(fitting))):
                scheduled = ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs).schedule.mod
                mod, compiled = for_codegen(scheduled, tvm.target.Target(options))
                # A loop over tiles and what is left of it, unless threads share it.
                assert mod.script().count("T.alloc_buffer") > 1 or knobs.parallel
                expected = output_of(kernel.mod, arguments, compiled)
                np.testing.assert_allclose(output_of(mod, arguments, compiled), expected, rtol=2e-4, atol=2e-4)
                seen.add(kind)
    assert seen == set(cuts)


def test_a_trial_gets_its_weights_prepacked(kernels, compiled_for):
    kernel = next(kernel for kernel in kernels if (shape := shape_of(kernel.mod)) and shape.kind == "conv")
    shape = shape_of(kernel.mod)
    knobs = next(knobs for knobs in all_knobs(shape, registers_of(compiled_for)) if knobs.channels < shape.channels)
    candidate = ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs)
    weights = [int(size) for size in ArgInfo.from_prim_func(kernel.mod["main"])[1].shape]
    packed = candidate.arguments[1][1]
    assert len(packed) != len(weights) and np.prod(packed) == np.prod(weights)
    trial = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(candidate.schedule.mod)
    tensors = [tvm.runtime.tensor(np.zeros(size, kind), tvm.cpu()) for kind, size in candidate.arguments]
    build(trial, target=compiled_for)["main"](*tensors)


def test_a_recorded_schedule_is_found_and_used_when_its_part_is_compiled(lowered, compiled_for, tmp_path):
    database = TuningDatabase(tmp_path, repair=True)
    part, mod = next((part, mod) for part, mod in lowered.items() if part.block == "k3_e3" and part.stride == 2)
    for kernel in kernels_of(mod, compiled_for):
        shape = shape_of(kernel.mod)
        if shape is not None:
            knobs = all_knobs(shape, registers_of(compiled_for))[0]
            database.add(ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs), kernel, compiled_for, 1.0)
    again = TuningDatabase(tmp_path, repair=True)
    image = np.random.default_rng(0).standard_normal((1, part.height, part.width, part.cin)).astype("float32")
    outputs = []
    for records in (None, again.records):
        machine = tvm.relax.VirtualMachine(build_library(mod, compiled_for, records), tvm.cpu())
        outputs.append(machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy())
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=2e-4, atol=2e-4)
