"""Sums of kernels lie on the stack, where LLVM turns them into registers; with AVX-512 they stay as they are."""

import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.compiler.signed_zeros import ignore_signed_zeros
from tvmfbnet.compiler.stack_buffers import use_stack
from tvmfbnet.dtypes import FLOAT32, INT8
from tvmfbnet.space.registry import load_space

PART = load_space("fbnet_mini").layers[1].cell("k3_e3")


def on_arm(mcpu):
    return tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "num-cores": 1})


def on_x86(mcpu):
    return tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu, "num-cores": 1})


def scheduled(target, dtype):
    """Schedules of kernels that keep sums, as trials build them; without stored padding, too large for the stack."""
    (model,) = export_parts([PART], dtype).values()
    for kernel in kernels_of(lower(model, target), target):
        shape = shape_of(kernel.mod)
        if shape is not None and shape.kind in ("conv", "depthwise"):
            ways = [knobs for knobs in all_knobs(shape, registers_of(target)) if knobs.padding in ("inline", "border")]
            if ways:
                mod = apply_knobs(kernel.mod, shape, ways[len(ways) // 2]).mod
                yield shape, RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod)


def workspaces(mod, target):
    return build(mod, target=target).inspect_source("ll").count("load ptr, ptr @__TVMBackendAllocWorkspace")


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        (on_arm("cortex-a76"), FLOAT32),
        (on_arm("cortex-a76"), INT8),
        (on_arm("cortex-a72"), INT8),
        (on_x86("haswell"), FLOAT32),
    ],
    ids=["a76 float32", "a76 int8", "a72 int8", "haswell float32"],
)
def test_sums_need_no_workspace(target, dtype):
    mods = [mod for _, mod in scheduled(target, dtype)]
    assert mods and all(workspaces(mod, target) for mod in mods)
    assert [workspaces(use_stack(mod, target), target) for mod in mods] == [0] * len(mods)


def test_kernels_for_avx512_stay_as_they_are():
    target = on_x86("skylake-avx512")
    for _, mod in scheduled(target, FLOAT32):
        assert use_stack(mod, target) is mod


def test_the_first_product_of_an_arm_kernels_sum_is_no_addition_to_zero():
    target = on_arm("cortex-a76")
    relaxed = ignore_signed_zeros(target)
    assert (relaxed.attrs["mcpu"], relaxed.attrs["mtriple"]) == ("cortex-a76", "aarch64-linux-gnu")
    (mod,) = [use_stack(mod, target) for shape, mod in scheduled(target, FLOAT32) if shape.kind == "depthwise"]
    strict, loose = (build(mod, target=each).inspect_source("asm") for each in (target, relaxed))
    assert loose.count("fmul\t") > strict.count("fmul\t") and loose.count("fmla\t") < strict.count("fmla\t")
    x86 = on_x86("haswell")
    assert ignore_signed_zeros(x86) is x86


def test_a_kernel_on_the_stack_computes_the_same():
    """What ARM gets, run here."""
    host = tvm.target.Target({"kind": "llvm", "num-cores": 1})
    for shape, mod in scheduled(host, FLOAT32):
        moved = use_stack(mod, on_arm("cortex-a76"))
        assert moved.script() != mod.script()
        sizes = [[int(size) for size in param.shape] for param in mod["main"].params]
        inputs = [np.random.default_rng(1).standard_normal(size).astype("float32") for size in sizes]
        outputs = []
        for each in (mod, moved):
            tensors = [tvm.runtime.tensor(value) for value in inputs]
            build(each, target=host)["main"](*tensors)
            outputs.append(tensors[-1].numpy())
        np.testing.assert_array_equal(outputs[0], outputs[1], err_msg=str(shape))
