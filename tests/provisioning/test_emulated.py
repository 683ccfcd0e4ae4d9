"""A real aarch64 process under qemu does all that a board would: blocks, tuning, a compiled net. Never speed.

Skipped, with what to install, where the cross compiler or qemu is missing (`scripts/setup --emulation` installs them).
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from device_samples import SMALL_SPACE, compile_small, run_package
from forked import run_command
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.candidate import argument_infos
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts, part_module
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, coverage, kernels_of, lower
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.dtypes import FLOAT16, random_tensor
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.device_facts import device_facts
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.session import run_library
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

NEEDED = {
    "qemu_arm": ["qemu-aarch64", "aarch64-linux-gnu-g++", "cmake"],
    "pocl": ["cmake"],
}


def have_pocl():
    import ctypes.util

    return ctypes.util.find_library("OpenCL") is not None and shutil.which("cmake") is not None


def skip_where_missing(name):
    missing = [program for program in NEEDED[name] if shutil.which(program) is None]
    if missing or (name == "pocl" and not have_pocl()):
        pytest.skip(f"{name}: {', '.join(missing) or 'OpenCL'} is missing; scripts/setup --emulation installs it")


pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]


@pytest.fixture(params=["qemu_arm", "pocl"])
def target(request):
    skip_where_missing(request.param)
    return resolve(load_target(request.param))


def test_every_block_equals_onnx_runtime_over_a_real_tracker(target, tmp_path):
    space = tmp_path / "small.yaml"
    space.write_text(SMALL_SPACE)
    models = export_parts(load_space(str(space)).distinct_blocks()[:3])
    compiled_for = target.for_tvm()
    with connect_device(target) as endpoint, RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
        facts = worker.call(device_facts, seconds=120)
        if target.triple:
            assert facts["machine"] == "aarch64"
        for number, (part, model) in enumerate(models.items()):
            library = tmp_path / f"part{number}.so"
            save_library(build(lower(model, compiled_for), compiled_for, None), library, target)
            image = np.random.default_rng(number).standard_normal(part_input_shape(part)).astype(np.float32)
            got = worker.call(run_library, str(library), [image], seconds=target.timeouts.session)
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            (expected,) = session.run(None, {"input": image})
            assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max()), part.name


def test_sums_in_half_on_an_emulated_cortex_a76_equal_pytorch(tmp_path):
    """It has half arithmetic, unlike any x86 here; benchmarks/emulated_space.py does the same to all of a space."""
    skip_where_missing("qemu_arm")
    text = (Path(__file__).parents[2] / "targets/qemu_arm.yaml").read_text().replace("cortex-a72", "cortex-a76")
    (tmp_path / "a76.yaml").write_text(text)
    target = resolve(load_target(f"{tmp_path / 'a76.yaml'},dtype=float16"))
    compiled_for, space = target.for_tvm(), load_space("fbnet_mini")
    registers, database = registers_of(compiled_for), ms.database.MemoryDatabase()
    with connect_device(target) as endpoint, RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
        for part, model in export_parts([space.layers[1].cell("k3_e6"), space.head[2]], FLOAT16).items():
            lowered = lower(model, compiled_for)
            for kernel in kernels_of(lowered, compiled_for):
                shape = shape_of(kernel.mod)
                ways = [] if shape is None else [knobs for knobs in all_knobs(shape, registers) if knobs.sum_bytes]
                if ways:
                    schedule = apply_knobs(kernel.mod, shape, ways[len(ways) // 2])
                    record = (schedule.trace, database.commit_workload(kernel.mod), [1e-3], compiled_for)
                    infos = argument_infos(schedule)
                    database.commit_tuning_record(ms.database.TuningRecord(*record, infos))
            assert coverage(lowered, compiled_for, database).missing == ()
            library = tmp_path / "part.so"
            save_library(build(lowered, compiled_for, database), library, target)
            image = random_tensor(part_input_shape(part), part_input_type(part, FLOAT16))
            got = worker.call(run_library, str(library), [image], seconds=target.timeouts.session)
            with torch.no_grad():
                expected = part_module(part)(torch.from_numpy(image).float()).numpy()
            assert 1e-6 < relative_error(got, expected) < FLOAT16.parity_limit / 2, part.name


def test_a_tiny_tuning_completes_with_every_part_measured(target, tmp_path):
    space = tmp_path / "small.yaml"
    space.write_text(SMALL_SPACE.replace("layers: 2", "layers: 1").replace("[k3_e1, k3_e3]", "[k3_e1]"))
    command = ["tune", "--target", target.name, "--space", str(space)]
    command += ["--trials", "1", "--batch", "1", "--tuning-logs", str(tmp_path / "logs"), "--json"]
    done = run_command(command)
    assert done.returncode == 0, done.stderr[-2000:]
    outcome = json.loads(done.stdout)
    assert outcome["new_trials"] >= outcome["parts"] and outcome["untuned"] == []
    assert outcome["measured_now"] == outcome["parts"] > 2


def test_a_compiled_net_runs_through_the_native_runner_and_equals_pytorch(target, tmp_path):
    net, package = compile_small(target.name, tmp_path)
    runner = [*target.transport.emulator, build_programs(target).runner]
    output, expected, printed = run_package(runner, net, package, tmp_path)
    assert np.abs(output - expected).max() < 1e-4 * np.abs(expected).max()
    assert printed["device"]["machine"] == ("aarch64" if target.triple else printed["device"]["machine"])


def test_the_opencl_plugin_tells_limits_and_times_by_the_device_clock(tmp_path):
    skip_where_missing("pocl")
    from tvmfbnet.compiler.library import linker
    from tvmfbnet.profiling.canary import build_canary, device_limits, run_canary

    pocl = resolve(load_target("pocl"))
    build_canary(pocl, tmp_path / "canary.so", linker(pocl))
    with connect_device(pocl) as endpoint, RemoteWorker(endpoint, "opencl", 120) as worker:
        limits = worker.call(device_limits, seconds=120)
        assert limits["max_threads_per_block"] >= 256 and limits["max_shared_memory_per_block"] >= 16384
        error, repeats = worker.call(run_canary, str(tmp_path / "canary.so"), seconds=120)
    assert error < 1e-4
    assert len(repeats) == 5 and all(0 < value < 1000 for value in repeats)


def test_half_scalars_are_rounded_to_nearest_even(tmp_path):
    """Every half value comes back from its double, and ties go to even: checked in C++ against the definition."""
    from tvmfbnet.tools import source_folder

    header = source_folder() / "device" / "opencl" / "half.h"
    (tmp_path / "half.cc").write_text(f'#include "{header}"\n' + HALF_CHECK)
    subprocess.run(["c++", "-std=c++17", "-o", tmp_path / "half", tmp_path / "half.cc"], check=True)
    assert subprocess.run([tmp_path / "half"]).returncode == 0


HALF_CHECK = """
int main() {
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    uint32_t e = h >> 10, m = h & 1023;
    double v = e ? std::ldexp(1024 + m, static_cast<int>(e) - 25) : std::ldexp(m, -24);
    if (tvmfbnet::to_half(v) != h || tvmfbnet::to_half(-v) != (h | 0x8000)) return 1;
  }
  if (tvmfbnet::to_half(65519) != 0x7bff || tvmfbnet::to_half(65520) != 0x7c00) return 2;
  double tie = std::ldexp(1, -11);
  if (tvmfbnet::to_half(1 + tie) != 0x3c00 || tvmfbnet::to_half(1 + 3 * tie) != 0x3c02) return 3;
  return (tvmfbnet::to_half(NAN) & 0x7fff) > 0x7c00 ? 0 : 4;
}
"""
