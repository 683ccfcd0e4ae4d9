"""A CPU target does without the tensor intrinsics of GPUs; a GPU target of the same process gets them all the same."""

import inspect
import subprocess
import sys

from tvmfbnet.compiler.instrument import _clock
from tvmfbnet.compiler.tap_products import register_integer_intrinsics

PROGRAM = """
import tvm
from tvm.s_tir import TensorIntrin
from tvmfbnet.compiler.intrinsics import load_tensor_intrinsics

def has(*names):
    return [TensorIntrin.get(name, True) is not None for name in names]

names = "dot_16x4_vnni", "wmma_sync_16x16x16_f16f16f32", "sdot4"
load_tensor_intrinsics(of_gpus=False)
assert has(*names) == [True, False, False], "what a CPU needs, and no more"
load_tensor_intrinsics()
assert has(*names) == [True, True, True]
from tvm.s_tir.tensor_intrin.cuda import get_wmma_intrin_group
"""


def test_a_cpu_target_loads_no_intrinsics_of_gpus_which_a_later_gpu_target_still_gets():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_our_own_functions_are_parsed_without_looking_through_all_modules(monkeypatch):
    def looked(context=1):
        raise AssertionError("looks through the source of every loaded module")

    monkeypatch.setattr(inspect, "stack", looked)
    assert _clock.__wrapped__((1, 2), "float32", 1).params[0] is not None
    register_integer_intrinsics()
