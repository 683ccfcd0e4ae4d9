"""Parts and nets are lowered to the same kernels, in the interior layout, and compute what torch computes."""

import random

import numpy as np
import onnxruntime
import pytest
import torch
import tvm

from tvmfbnet.compiler.export import export_net, export_parts, part_input_shape, part_module
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.deploy.package import untrained_net
from tvmfbnet.space.arch import Arch

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 1})


def random_arch(space, seed):
    generator = random.Random(seed)
    return Arch(tuple(generator.choice(layer.blocks) for layer in space.layers))


@pytest.fixture
def lowered_parts(tiny_space):
    models = export_parts(tiny_space.distinct_parts())
    return {part: lower(model, TARGET) for part, model in models.items()}


def test_every_part_exports_to_onnx_that_computes_what_torch_computes(tiny_space):
    for part, model in export_parts(tiny_space.distinct_parts()).items():
        image = np.random.default_rng(1).standard_normal(part_input_shape(part)).astype(np.float32)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = part_module(part)(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(session.run(None, {"input": image})[0], expected, atol=1e-4, rtol=1e-4)


def test_a_part_has_no_transposes_at_its_borders_and_keeps_its_biases(lowered_parts):
    for part, mod in lowered_parts.items():
        names = [kernel.name for kernel in kernels_of(mod, TARGET)]
        if "g2" not in part.block:  # a channel shuffle is a transpose
            assert not any("transpose" in name for name in names), (part.name, names)
        for name in names:
            if "conv2d" in name or "matmul" in name:
                assert "add" in name, (part.name, name)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_kernel_of_a_random_net_is_a_kernel_of_some_part(tiny_space, lowered_parts, seed):
    keys = {kernel.key for mod in lowered_parts.values() for kernel in kernels_of(mod, TARGET)}
    net = untrained_net(random_arch(tiny_space, seed), tiny_space)
    kernels = kernels_of(lower(export_net(net.eval()), TARGET), TARGET)
    assert [kernel.name for kernel in kernels if kernel.key not in keys] == []
    assert sum(kernel.is_conv for kernel in kernels) >= 4
