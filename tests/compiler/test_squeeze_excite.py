"""A block with squeeze-and-excitation, compiled by TVM, computes what torch and ONNX Runtime compute."""

import numpy as np
import onnxruntime
import pytest
import torch
import tvm
from tvm import relax

from tvmfbnet.compiler.export import export_parts, part_input_shape, part_module
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.space.registry import load_space

TARGET = tvm.target.Target({"kind": "llvm", "num-cores": 1})


def squeezed_blocks():
    """Of the shipped space: without and with a stride, with ReLU and with hard swish, the widest kernel among them."""
    cells = load_space("mobile_se@64").distinct_blocks()
    for name, stride in (("k3_e3_se", 2), ("k5_e3_se", 1), ("k7_e6_se_hswish", 1)):
        yield next(part for part in cells if part.block == name and part.stride == stride)


@pytest.mark.slow
def test_a_compiled_block_computes_what_torch_and_onnx_runtime_compute():
    for part, model in export_parts(list(squeezed_blocks())).items():
        mod = lower(model, TARGET)
        names = [kernel.name for kernel in kernels_of(mod, TARGET)]
        assert sum("matmul" in name for name in names) == 2, names  # squeeze and excite
        image = np.random.default_rng(0).standard_normal(part_input_shape(part)).astype(np.float32)
        machine = relax.VirtualMachine(build(mod, TARGET, None), tvm.cpu())
        output = machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy()
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            expected = part_module(part)(torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(output, session.run(None, {"input": image})[0], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(output, expected, atol=1e-4, rtol=1e-4)
