"""On x86 with AVX2, depthwise kernels by packed taps equal plain sums, and stored codes are rounded and clipped."""

import random

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.driver import build
from tvm.ir import IRModule
from tvm.s_tir import Schedule

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler import integer_kernels as kernels
from tvmfbnet.compiler.dot_products import dot_product_of
from tvmfbnet.compiler.integer_sums import convolution
from tvmfbnet.compiler.scheduled_kernels import for_codegen

AVX2 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell", "num-cores": 1}
CHANNELS, ZERO = 16, 7
CODES = kernels.Quantisation(0.05, 3, 0, 255)


def depthwise_sums(source, weights, stride, padding):
    """(H, W, C) codes and (C, 1, k, k) weights to integer sums."""
    padded = np.pad(source.astype("int64"), ((padding, padding), (padding, padding), (0, 0)), constant_values=ZERO)
    kernel = weights.shape[-1]
    height, width = ((size - kernel) // stride + 1 for size in padded.shape[:2])
    total = np.zeros((height, width, source.shape[-1]), "int64")
    for ky, kx in np.ndindex(kernel, kernel):
        taps = padded[ky : ky + stride * height : stride, kx : kx + stride * width : stride][:height, :width]
        total += taps * weights[:, 0, ky, kx]
    return total


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [(8, 3, 1, 1), (7, 5, 1, 2), (9, 5, 2, 2), (7, 3, 1, 0), (10, 5, 3, 2)],
)
def test_windows_that_share_words_add_up_what_they_cover(side, kernel, stride, padding):
    target, rng = tvm.target.Target(AVX2), np.random.default_rng(side)
    dot = dot_product_of(target)
    draft = kernels.Draft(dot)
    source = rng.integers(0, 256, (1, side, side, CHANNELS)).astype("uint8")
    weights = rng.integers(-127, 128, (CHANNELS, 1, kernel, kernel)).astype("int8")
    given = draft.argument(relax.Var("codes", relax.TensorType(source.shape, "uint8")))
    window = kernels.ConvWindow(kernel, stride, padding, CHANNELS)
    total = convolution(draft, given, weights, ZERO, window)
    scale = np.full(CHANNELS, 2.0**-8, "float32")
    terms = kernels.SumTerms(np.zeros(CHANNELS, "int32"), scale)
    requantised = kernels.scaled_sum(draft, total, terms, CODES, CHANNELS)
    mod = IRModule({"main": draft.finish(kernels.store(requantised, dot)).with_attr("global_symbol", "main")})
    expected = np.clip(np.rint(depthwise_sums(source[0], weights, stride, padding) / 256 + CODES.zero), 0, 255)
    assert {0, 255} <= set(np.unique(expected)) and len(np.unique(expected)) > 20
    shape = shape_of(mod)
    ways = all_knobs(shape, registers_of(target))
    assert shape.dot == "vpmaddwd" and shape.dot_rows == (1 if stride == 2 else 2)
    knobs = random.Random(side).choice(ways)
    scheduled, compiled_for = for_codegen(apply_knobs(mod, shape, knobs).mod, target)
    arguments = [source, *(argument.value.numpy() for argument in draft.arguments[1:])]
    output = run(scheduled, compiled_for, arguments, expected[None].astype("uint8"))
    np.testing.assert_array_equal(output[0], expected, err_msg=str(knobs))


def run(mod, target, arguments, like):
    """What a kernel's ``main`` gives, an array of the shape and type of another."""
    output = tvm.runtime.tensor(np.zeros_like(like), tvm.cpu())
    build(mod, target=target)["main"](*(tvm.runtime.tensor(value, tvm.cpu()) for value in arguments), output)
    return output.numpy()


REALS = [-np.inf, -3e38, -3e9, -(2.0**31), -300.0, -0.51, -0.5, 0.0, 0.49, 0.5, 1.5, 2.5, 127.4]
REALS += [254.49, 254.5, 255.4, 255.5, 256.0, 65536.5, 2.0**31, 3e9, 3e38, np.inf]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "in registers"])
def test_codes_are_rounded_and_clipped_whatever_the_float(stored):
    target = tvm.target.Target(AVX2)
    dot, one = dot_product_of(target), kernels.Quantisation(1.0, 0, 0, 255)
    values = np.resize(np.array(REALS, "float32"), 64)
    draft = kernels.Draft(dot)
    reals = draft.argument(relax.Var("reals", relax.TensorType(values.shape, "float32")))
    codes = kernels.requantise(draft, reals, one)
    result = kernels.store(codes, dot) if stored else kernels.reals_of(draft, codes, one)
    schedule = Schedule(IRModule({"main": draft.finish(result).with_attr("global_symbol", "main")}))
    *inner, last = schedule.get_child_blocks(schedule.get_sblock("root", "main"))
    for block in inner:
        schedule.compute_inline(block)
    schedule.vectorize(schedule.split(schedule.get_loops(last)[0], [None, 16])[1])
    arguments = [values, *(argument.value.numpy() for argument in draft.arguments[1:])]
    expected = np.clip(np.rint(values), 0, 255).astype(str(result.dtype))
    np.testing.assert_array_equal(run(schedule.mod, target, arguments, expected), expected)
    if stored:
        assembly = build(schedule.mod, target=target).inspect_source("asm")
        assert all(name in assembly for name in ("vcvtps2dq", "vpackssdw", "vpackuswb"))
