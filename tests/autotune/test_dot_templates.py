"""Schedules of integer dot products: whatever the knobs, a kernel's result stays, and it uses the CPU's instruction."""

import random
import re

import numpy as np
import pytest
import tvm
from integer_parts import SPACE
from tvm.driver import build
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.dtypes import INT8
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# A CPU and the instruction that its pointwise and depthwise kernels consist of.
INSTRUCTIONS = {
    ("x86_64-linux-gnu", "icelake-server"): r"vpdpbusd\s+.*%zmm",
    ("x86_64-linux-gnu", "skylake-avx512"): r"vpmaddwd\s+.*%zmm",
    ("x86_64-linux-gnu", "haswell"): r"vpmaddwd\s+.*%ymm",
    ("aarch64-linux-gnu", "cortex-a710"): r"smmla\s+v\d+\.4s",
    ("aarch64-linux-gnu", "cortex-a76"): r"sdot\s+v\d+\.4s",
    ("aarch64-linux-gnu", "cortex-a53"): r"smlal2?\s+v\d+\.4s",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    parts = load_space(str(path)).distinct_parts()
    return export_parts([part for part in parts if part.block in ("k3_e3", "k5_e1_g2", "conv_k3", "linear")], INT8)


def kernels(models, target):
    return list(
        {kernel.key: kernel for m in models.values() for kernel in kernels_of(lower(m, target), target)}.values()
    )


def random_argument(info, rng):
    shape = [int(size) for size in info.shape]
    if str(info.dtype) == "float32":
        return (rng.standard_normal(shape) * (1e-3 if len(shape) == 1 else 1.0)).astype("float32")
    limits = np.iinfo(info.dtype) if str(info.dtype) in ("int8", "uint8") else np.iinfo("int8")
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(str(info.dtype))


def test_schedules_compute_what_the_kernel_computes(models):
    target = resolve(load_target("host")).for_tvm()
    chooser, rng = random.Random(0), np.random.default_rng(0)
    compared = varied = 0
    for kernel in kernels(models, target):
        shape = shape_of(kernel.mod)
        if not shape.dot:
            continue
        arguments = [random_argument(info, rng) for info in ArgInfo.from_prim_func(kernel.mod["main"])]
        outputs = []
        knobs = chooser.choice(all_knobs(shape, registers_of(target)))
        for mod in (kernel.mod, apply_knobs(kernel.mod, shape, knobs).mod):
            tensors = [tvm.runtime.tensor(argument, tvm.cpu()) for argument in arguments]
            build(mod, target=target)["main"](*tensors)
            outputs.append(tensors[-1].numpy())
        np.testing.assert_array_equal(*outputs, err_msg=f"{shape} {knobs}")
        varied += len(np.unique(outputs[0])) > 1
        compared += 1
    assert (compared >= 6 and varied >= 4) or (compared == 0 and registers_of(target).vector_bytes < 32)


@pytest.mark.parametrize(("triple", "cpu"), INSTRUCTIONS, ids=lambda name: name)
def test_kernels_consist_of_the_instruction_of_the_cpu(models, triple, cpu):
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 1})
    checked = {"conv": 0, "depthwise": 0}
    for kernel in kernels(models, target):
        shape = shape_of(kernel.mod)
        if shape.kind not in checked or (shape.kind == "conv" and shape.kernel > 1):
            continue
        if shape.kind == "depthwise" and shape.stride > 1:
            continue  # too few windows share a column
        ways = [way for way in all_knobs(shape, registers_of(target)) if way.lanes >= 4 or shape.dot_pixels > 1]
        knobs = max(ways, key=lambda way: (way.lanes, way.padding == "inline", way.channels * way.columns))
        scheduled = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(apply_knobs(kernel.mod, shape, knobs).mod)
        assembly = build(scheduled, target=target).inspect_source("asm")
        instruction = INSTRUCTIONS[triple, cpu]
        if shape.kind == "depthwise" and triple.startswith("aarch64"):
            instruction = r"smlal2?\s+v\d+\.4s"  # its dot products pay for pointwise kernels only
        if shape.group < 16:
            instruction = re.sub("%[yz]mm", "%[xyz]mm", instruction)  # too few channels for a whole register
        assert re.search(instruction, assembly), f"{kernel.name} {shape} {knobs}"
        assert not re.search(r"\bv?pmaddubsw\b", assembly)
        checked[shape.kind] += 1
    assert checked["conv"] >= 4 and checked["depthwise"] >= 1
