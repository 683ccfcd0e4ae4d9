"""Trials and nets compile a scheduled kernel to the same instructions."""

import re

import pytest
import tvm
from tvm.driver import build

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import build_prepared, kernels_of, lower
from tvmfbnet.compiler.scheduled_kernels import for_codegen, without_prepacking
from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.space.registry import load_space


def on(mtriple, mcpu):
    return tvm.target.Target({"kind": "llvm", "mtriple": mtriple, "mcpu": mcpu, "num-cores": 1})


def depthwise(target):
    """A depthwise kernel whose loops are cut at the image's borders, where the target has such schedules."""
    (model,) = export_parts([load_space("fbnet_mini").layers[1].cell("k3_e3")], FLOAT32).values()
    shapes = {kernel: shape_of(kernel.mod) for kernel in kernels_of(lower(model, target), target)}
    kernel, shape = next(pair for pair in shapes.items() if pair[1] is not None and pair[1].kind == "depthwise")
    ways = [knobs for knobs in all_knobs(shape, registers_of(target)) if knobs.padding in ("inline", "border")]
    return without_prepacking(apply_knobs(kernel.mod, shape, ways[len(ways) // 2]).mod)


def instructions(assembly):
    """Vector instructions in order, without their registers and operands."""
    names = r"fmla|fmul|ldr|ldp|ldur|str|stp|stur|vmovups|vmulps|vfn?madd\w+|vmaxps"
    return re.findall(rf"^\s+({names})\b", assembly, re.M)


@pytest.mark.parametrize("target", [on("aarch64-linux-gnu", "neoverse-n1"), on("x86_64-linux-gnu", "haswell")])
def test_a_trial_and_a_net_compile_a_kernel_to_the_same_instructions(target):
    mod = depthwise(target)
    finished, compiled_for = for_codegen(mod, target)
    trial = instructions(build(finished, target=compiled_for).inspect_source("asm"))
    net = build_prepared(mod, target, checks=True).mod
    assert len(trial) > 50 and trial == instructions(net.imports[0].inspect_source("asm"))
    assert trial != instructions(build(mod, target=target).inspect_source("asm"))
