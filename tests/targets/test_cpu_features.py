"""`mcpu: native` means the instructions that are there, and a CPU that lacks some of its name's is found out."""

import shutil
import subprocess
import sys
import sysconfig

import pytest
import tvm
from tvm.target.codegen import llvm_get_cpu_features

from tvmfbnet.autotune.templates import registers_of
from tvmfbnet.compiler.library import linker
from tvmfbnet.profiling.doctor import examine
from tvmfbnet.targets.cpu_features import differences, native_cpu
from tvmfbnet.targets.definition import Target, load_target, resolve

x86 = pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="features of x86-64")
with_qemu = pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is missing (qemu-user)")


def features_of(mcpu, mattr=()):
    described = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu}
    return {str(name) for name in llvm_get_cpu_features(tvm.target.Target(described | ({"mattr": list(mattr)})))}


def real(mcpu, hidden=(), more=()):
    """What a CPU tells of itself behind a virtual machine that hides some of it."""
    return {name: name not in hidden for name in features_of(mcpu)} | dict.fromkeys(more, True)


@x86
def test_a_cpu_with_all_that_its_name_says_needs_no_more_words():
    for name in ("haswell", "znver5", "skylake-avx512"):
        assert differences(name, real(name)) == ()


@x86
def test_masked_avx512_is_one_word_and_takes_all_of_it_off():
    hidden = {name for name in features_of("skylake-avx512") if name.startswith("avx512")}
    assert len(hidden) > 4
    marks = differences("skylake-avx512", real("skylake-avx512", hidden))
    assert marks == ("-avx512f",)
    assert not features_of("skylake-avx512", marks) & hidden


@x86
def test_what_no_compiler_uses_unasked_does_not_change_the_target():
    assert differences("znver5", real("znver5", hidden={"pku", "mwaitx", "wbnoinvd", "rdpru", "sha"})) == ()


@x86
def test_features_beyond_the_name_are_added():
    marks = differences("x86-64", real("x86-64", more=("avx", "avx2", "fma")))
    assert {"avx", "avx2", "fma"} <= features_of("x86-64", marks) and len(marks) <= 3


@x86
@pytest.mark.parametrize(
    ("mcpu", "mattr", "lanes", "count"),
    [
        ("skylake-avx512", [], 16, 32),
        ("skylake-avx512", ["-avx512f"], 8, 16),
        ("haswell", [], 8, 16),
        ("haswell", ["-avx"], 4, 16),
        ("x86-64", [], 4, 16),
    ],
)
def test_vector_registers_follow_the_features_that_are_on(mcpu, mattr, lanes, count):
    described = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu, "mattr": mattr}
    registers = registers_of(tvm.target.Target(described))
    assert (registers.lanes(4), registers.count, registers.reads_operands) == (lanes, count, True)


def test_vector_registers_of_arm_are_neons():
    for mcpu in ("cortex-a72", "cortex-a76", "cortex-a55"):
        registers = registers_of(tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu}))
        assert (registers.lanes(4), registers.count, registers.reads_operands) == (4, 32, False)
        assert registers.in_order == (mcpu == "cortex-a55")


def test_what_the_file_says_of_features_counts_more():
    host = load_target("host")
    asked = host.model_copy(update={"tvm": {**host.tvm, "mattr": ["-fma"]}})
    assert resolve(asked).tvm["mattr"][-1] == "-fma"
    assert resolve(host).tvm["mcpu"] == native_cpu()[0]


# Loaded as by the builders of candidates: torch would take most of the time in an emulator.
PRINT_NATIVE = """
import gc
from tvmfbnet.rpc.without_torch import leave_out_torch
gc.disable()
leave_out_torch()
import tvm
from tvm.target.codegen import llvm_get_cpu_features
from tvmfbnet.targets.definition import load_target, resolve
from tvmfbnet.autotune.templates import registers_of
target = tvm.target.Target(resolve(load_target("host")).tvm)
on = {str(name) for name in llvm_get_cpu_features(target)}
print("native:", target.attrs["mcpu"], list(target.attrs["mattr"]), "avx512f" in on, registers_of(target).lanes(4))
"""


@x86
@with_qemu
@pytest.mark.emulated
@pytest.mark.slow
def test_native_on_a_machine_that_masks_avx512_compiles_without_it():
    """QEMU's Skylake-Server has the family and model of one, and none of its AVX-512."""
    command = ["qemu-x86_64", "-cpu", "Skylake-Server", sys.executable, "-c", PRINT_NATIVE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "native: skylake-avx512 ['-avx512f'] False 8" in done.stdout, done.stdout + done.stderr


def old_machine(mcpu):
    return Target.model_validate(
        {
            "name": "oldvm",
            "description": "a machine without AVX-512",
            "exercised": False,
            "tvm": {"kind": "llvm", "mcpu": mcpu},
            "transport": {
                "kind": "local",
                "key": "oldvm",
                "server": "native",
                "emulator": ["qemu-x86_64", "-cpu", "Haswell-noTSX"],
            },
            "timing": {"repeats": 3, "min_repeat_ms": 1},
            "timeouts": {"connect": 60, "session": 120},
        }
    )


@x86
@with_qemu
@pytest.mark.emulated
@pytest.mark.rpc
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is missing")
def test_the_doctor_names_an_illegal_instruction_and_mcpu():
    checks = {check.name: check for check in examine(old_machine("skylake-avx512"), linker)}
    assert checks["canary"].ok
    failed = checks["instructions"]
    assert not failed.ok and "stopped at an illegal instruction" in failed.found and "signal 4" in failed.found
    assert "mcpu" in failed.advice and "instructions are not all there" in failed.advice
    assert all(check.ok for check in examine(old_machine("haswell"), linker))
