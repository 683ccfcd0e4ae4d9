"""Other runtimes on the simulated cores see the core that is simulated, by a clock that is right, or say why not."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tvmfbnet.errors import DeviceError, ParityError, UserError
from tvmfbnet.simulation.cores import list_cores, load_core


@pytest.fixture
def system(tmp_path):
    """Something that looks like an aarch64 system's root."""
    (tmp_path / "system" / "usr").mkdir(parents=True)
    return tmp_path / "system"


@pytest.fixture
def arm_python():
    named = os.environ.get("TVMFBNET_ARM_PYTHON", "")
    if not named:
        pytest.skip("needs an aarch64 Python: scripts/arm_python DIR, then TVMFBNET_ARM_PYTHON=DIR")
    return Path(named).resolve()


def test_every_shipped_core_has_a_part_number_of_its_own(benchmark_script):
    cpuinfo = benchmark_script("emulated_machine").cpuinfo
    texts = [cpuinfo(load_core(name)) for name in list_cores()]
    parts = {line for text in texts for line in text.splitlines() if line.startswith("CPU part")}
    assert len(parts) == len(texts)


def test_a_core_without_a_part_number_and_a_missing_system_are_told(benchmark_script, system, tmp_path):
    machine_root, core = benchmark_script("emulated_machine").machine_root, load_core("a76")
    with pytest.raises(UserError, match="no part number of core mine is listed"):
        machine_root(core.model_copy(update={"name": "mine"}), system, tmp_path)
    with pytest.raises(UserError, match="scripts/arm_python"):
        machine_root(core, tmp_path / "nowhere", tmp_path)


def test_an_output_of_another_net_is_refused(benchmark_script):
    module, output = benchmark_script("simulated_rivals"), np.arange(10.0)
    module.require_same(module.Rival("1", (2.0, 1.0, 1.0), output + 1e-4, {}), output[None], "A runtime")
    for other in (output + 1, np.arange(9.0), output * np.nan):
        with pytest.raises(ParityError, match=r"^A runtime: .*not the same net"):
            module.require_same(module.Rival("1", (2.0, 1.0, 1.0), other, {}), output[None], "A runtime")


def test_a_core_without_documented_figures_cannot_check_its_clock(benchmark_script, tmp_path):
    module, core = benchmark_script("simulated_rivals"), load_core("a76").model_copy(update={"documented": None})
    with pytest.raises(UserError, match="no section documented"):
        module.clock_error(module.EmulatedPython(core, tmp_path, tmp_path, tmp_path))


@pytest.mark.emulated
def test_an_emulated_program_sees_the_simulated_core(benchmark_script, arm_python, tmp_path):
    root = benchmark_script("emulated_machine").machine_root(load_core("a55"), arm_python / "root", tmp_path)
    command = ["qemu-aarch64", "-cpu", "cortex-a76", "-L", str(root), str(arm_python / "root/usr/bin/python3.11"), "-c"]
    code = "print(open('/proc/cpuinfo').read(), open('/sys/devices/system/cpu/possible').read())"
    told = subprocess.run([*command, code], capture_output=True, text=True, check=True).stdout
    assert "CPU part\t: 0xd05" in told and told.rstrip().endswith("\n 0")


@pytest.mark.emulated
@pytest.mark.slow
def test_a_loop_of_known_length_takes_that_long_and_a_missing_runtime_is_told(benchmark_script, arm_python, tmp_path):
    module = benchmark_script("simulated_rivals")
    python = module.EmulatedPython(load_core("a76"), arm_python, tmp_path, tmp_path)
    assert abs(module.check_clock(python)) < 0.01
    with pytest.raises(DeviceError, match=r"^onnxruntime failed: ModuleNotFoundError: .*onnxruntime"):
        module.time_rival(python, "onnxruntime", tmp_path / "net.onnx", np.zeros((1, 3, 8, 8), "float32"))
