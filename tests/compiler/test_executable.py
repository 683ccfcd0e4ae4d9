"""Kernels in several modules of LLVM, untuned convolutions at a lower level: the same results, and the same bytes."""

import re

import numpy as np
import pytest
import torch
import tvm
from tvm import relax
from tvm.runtime.vm import VirtualMachine

from tvmfbnet.compiler.export import export_net
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build_prepared, lower, prepare
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

HOST = resolve(load_target("host"))
SHAPE = (1, 1, 16, 16)


@pytest.fixture(scope="module")
def prepared():
    """A net whose pointwise convs have loops over up to 96 channels, which LLVM's highest level unrolls."""
    space = load_space("fbnet_mini@16")
    arch = Arch(tuple("k3_e6" if "k3_e6" in layer.blocks else layer.blocks[0] for layer in space.layers))
    torch.manual_seed(0)
    target = HOST.for_tvm()
    return prepare(lower(export_net(untrained_net(arch, space).eval(), FLOAT32), target), target, None)


def output(path):
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    machine = VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy()


def modules_of(module):
    return [module, *(inner for child in module.imports for inner in modules_of(child))]


def code_lines(built):
    texts = (module.inspect_source("asm") for module in modules_of(built.mod) if module.kind == "llvm")
    return sum(len(re.findall(r"^\s+[a-z]", text, re.M)) for text in texts)


def test_untuned_convolutions_are_not_unrolled_and_compute_the_same_bits(prepared, tmp_path, monkeypatch):
    ours = build_prepared(prepared, HOST.for_tvm(), checks=False)
    monkeypatch.setattr(
        "tvmfbnet.compiler.lowering.build_executable",
        lambda mod, target, passes: relax.build(mod, target, relax_pipeline=tvm.transform.Sequential(passes)),
    )
    tvms = build_prepared(prepared, HOST.for_tvm(), checks=False)
    libraries = [save_library(each, tmp_path / name, HOST) for each, name in ((ours, "ours.so"), (tvms, "tvms.so"))]
    np.testing.assert_array_equal(output(libraries[0]), output(libraries[1]))
    assert code_lines(ours) < 0.8 * code_lines(tvms)


def test_a_library_of_several_modules_is_the_same_every_time(prepared, tmp_path):
    libraries = []
    for number in range(2):
        built = build_prepared(prepared, HOST.for_tvm(), checks=False)
        assert sum(module.kind == "llvm" for module in modules_of(built.mod)) > 1
        libraries.append(save_library(built, tmp_path / f"{number}.so", HOST).read_bytes())
    assert libraries[0] == libraries[1]
