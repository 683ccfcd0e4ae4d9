"""Kernels whose padding is never stored test for the image's border only at the border, and compute the same."""

import random

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.templates import apply_knobs, shape_of
from tvmfbnet.compiler.border_loops import cut_borders
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.space.registry import load_space

# What ARM cores get, run here.
NEON = Registers(32, 16, threads=2, reads_operands=False)
IN_ORDER = Registers(32, 16, reads_operands=False, in_order=True)
SPACE = load_space("fbnet_mini")
PARTS = [SPACE.stem, SPACE.layers[1].cell("k3_e3"), SPACE.layers[1].cell("k5_e3"), SPACE.layers[2].cell("k5_e3")]


@pytest.fixture(scope="module")
def host():
    return tvm.target.Target({"kind": "llvm", "num-cores": 2})


@pytest.fixture(scope="module")
def padded_kernels(host):
    kernels = [kernel for model in export_parts(PARTS).values() for kernel in kernels_of(lower(model, host), host)]
    shapes = {kernel.key: (kernel, shape_of(kernel.mod)) for kernel in kernels}
    return [(kernel, shape) for kernel, shape in shapes.values() if shape is not None and shape.padded]


def output_of(mod, arguments, target):
    tensors = [tvm.runtime.tensor(argument) for argument in arguments]
    build(mod, target=target)["main"](*tensors)
    return tensors[-1].numpy()


def test_kernels_cut_at_the_border_compute_the_same(padded_kernels, host):
    chooser, rng, seen = random.Random(2), np.random.default_rng(2), set()
    for kernel, shape in padded_kernels:
        ways = [knobs for knobs in all_knobs(shape, NEON) if knobs.padding == "border"]
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        expected = output_of(kernel.mod, arguments, host)
        for parallel in (0, 1, 2):
            knobs = chooser.choice([way for way in ways if way.parallel == parallel] or ways)
            seen |= {knobs.parallel, knobs.order, (shape.kind, shape.kernel, shape.stride)}
            cut = cut_borders(apply_knobs(kernel.mod, shape, knobs).mod)
            np.testing.assert_allclose(
                output_of(cut, arguments, host), expected, rtol=2e-4, atol=2e-4, err_msg=f"{shape} {knobs}"
            )
    assert {0, 1, ("conv", 3, 2), ("depthwise", 3, 1), ("depthwise", 5, 1), ("depthwise", 5, 2)} <= seen, seen


def test_input_that_is_loaded_in_halves_gives_the_same_sums(padded_kernels, host):
    chooser, rng, seen = random.Random(3), np.random.default_rng(3), set()
    for kernel, shape in padded_kernels:
        ways = [knobs for knobs in all_knobs(shape, IN_ORDER) if knobs.staged and shape.kind == "depthwise"]
        if not ways or (shape.kernel, shape.stride) in seen:
            continue
        seen.add((shape.kernel, shape.stride))
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        knobs = chooser.choice(ways)
        assert (knobs.staged, knobs.lanes, knobs.padding) == (2, 4, "border")
        cut = cut_borders(apply_knobs(kernel.mod, shape, knobs).mod)
        expected = output_of(kernel.mod, arguments, host)
        np.testing.assert_allclose(output_of(cut, arguments, host), expected, rtol=2e-4, atol=2e-4, err_msg=str(knobs))
    assert seen == {(3, 1), (5, 1), (5, 2)}


def test_only_loops_at_the_border_test_for_it(padded_kernels):
    """Of nine copies of a tile, the interior's tests nothing."""
    kernel, shape = next((k, s) for k, s in padded_kernels if s.kind == "depthwise" and (s.kernel, s.stride) == (3, 1))
    knobs = next(
        knobs
        for knobs in all_knobs(shape, NEON)
        if (knobs.padding, knobs.rows, knobs.columns, knobs.order, knobs.parallel) == ("border", 2, 2, "cyx", 0)
    )
    mod = apply_knobs(kernel.mod, shape, knobs).mod
    assert cut_borders(mod).script() != mod.script()
    text = tvm.s_tir.transform.StmtSimplify()(cut_borders(mod)).script()
    assignments = [line.split(" = ", 1) for line in text.splitlines() if " = " in line]
    sums = [value for buffer, value in assignments if "local" in buffer and " * param" in value]
    assert len(sums) == 9
    assert sum("if_then_else" not in value for value in sums) == 1


def test_unmarked_kernels_stay_as_they_are(padded_kernels):
    kernel, shape = padded_kernels[0]
    knobs = next(knobs for knobs in all_knobs(shape, NEON) if knobs.padding == "whole")
    mod = apply_knobs(kernel.mod, shape, knobs).mod
    assert cut_borders(mod) is mod
    assert cut_borders(kernel.mod) is kernel.mod
