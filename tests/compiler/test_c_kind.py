"""`tvm.kind: c` is a CPU, too: lowered, scheduled, chained and built as one, through the C compiler of the machine."""

import shutil

import numpy as np
import pytest
import tvm

from tvmfbnet.autotune.builder_pool import build_candidate
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts, part_input_shape
from tvmfbnet.compiler.instrument import chain_nets, net_function
from tvmfbnet.compiler.library import linker, save_library
from tvmfbnet.compiler.lowering import build, kernels_of, lower
from tvmfbnet.errors import UserError
from tvmfbnet.latency.measurement import IN_NET
from tvmfbnet.profiling.parts import protocol_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import Target, load_target
from tvmfbnet.targets.tvm_target import compiles_for_cpu

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")

SPACE = """
input: {channels: 1, height: 28, width: 28}
classes: 10
stem: {channels: 4, stride: 2}
stages:
  - {channels: 8, layers: 1, stride: 2}
blocks: [k3_e1]
last_channels: 8
"""
IN_C = tvm.target.Target({"kind": "c"})
TARGET = Target.model_validate(
    {
        "name": "inc",
        "description": "this machine through TVM's C code",
        "exercised": False,
        "tvm": {"kind": "c"},
        "transport": {"kind": "local", "key": "inc"},
    }
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The parts of a net, in order."""
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    space = load_space(str(path))
    return export_parts(list(space.parts_of(Arch(("k3_e1",)))))


def test_c_is_a_cpu_everywhere_and_gpus_are_not():
    assert TARGET.on_cpu and compiles_for_cpu(IN_C)
    assert protocol_of(TARGET) == IN_NET
    for name in ("mali", "apple_gpu", "pocl"):
        gpu = load_target(name)
        assert not gpu.on_cpu and not compiles_for_cpu(tvm.target.Target({"kind": gpu.tvm["kind"]}))


def test_parts_in_c_compute_what_llvms_compute_and_have_clocks_between_them(models, tmp_path):
    parts = list(models)
    image = np.random.default_rng(0).standard_normal(part_input_shape(parts[0])).astype(np.float32)
    expected, plain = image, tvm.target.Target({"kind": "llvm", "num-cores": 1})
    for part in parts:
        reference = tvm.relax.VirtualMachine(build(lower(models[part], plain), plain, None), tvm.cpu())
        expected = reference["main"](tvm.runtime.tensor(expected.reshape(part_input_shape(part)), tvm.cpu())).numpy()
    chain = chain_nets([[lower(models[part], IN_C) for part in parts]], IN_C)
    library = save_library(build(chain, IN_C, None), tmp_path / "chain.so", TARGET)
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    output, clock = machine[net_function(0)](tvm.runtime.tensor(image, tvm.cpu()))
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-4, atol=1e-4)
    seconds = clock.numpy()[:, 0] + 1e-9 * clock.numpy()[:, 1]
    assert len(seconds) == len(parts) + 2 and (np.diff(seconds) >= 0).all()


def test_every_kind_of_schedule_is_c_that_compiles(models, tmp_path):
    kernels = {kernel.key: kernel for model in models.values() for kernel in kernels_of(lower(model, IN_C), IN_C)}
    seen = set()
    for kernel in kernels.values():
        shape = shape_of(kernel.mod)
        if shape is None or shape.kind in seen:
            continue
        seen.add(shape.kind)
        ways = all_knobs(shape, registers_of(IN_C))
        assert all(knobs.lanes == 1 and knobs.parallel == 0 for knobs in ways)
        candidate = ScheduleCandidate.of(apply_knobs(kernel.mod, shape, ways[len(ways) // 2]), ways[len(ways) // 2])
        library, _, _ = build_candidate(candidate.mod_json, TARGET.tvm_json(), linker(TARGET, trial=True), 0.0)
        assert library.startswith(b"\x7fELF")
    assert {"conv", "matmul", "move"} <= seen


@pytest.mark.slow
def test_kernels_without_templates_are_searched_for_c_too(models, tmp_path):
    kernel = next(
        kernel for model in models.values() for kernel in kernels_of(lower(model, IN_C), IN_C) if kernel.is_conv
    )
    database = TuningDatabase(tmp_path, repair=True)
    proposed = EvolutionSearch(kernel, IN_C, database, new_cost_model(), 2, 0, population=8).propose()
    assert proposed
    library, _, _ = build_candidate(proposed[0].mod_json, TARGET.tvm_json(), linker(TARGET, trial=True), 0.0)
    assert library.startswith(b"\x7fELF")


def test_c_has_no_parallel_loops_so_threads_are_refused(tmp_path):
    path = tmp_path / "inc.yaml"
    path.write_text(
        "name: inc\ndescription: x\nexercised: false\ntvm: {kind: c}\nthreads: 2\ntransport: {kind: local, key: inc}\n"
    )
    with pytest.raises(UserError, match=r"no parallel loops: use tvm\.kind llvm"):
        load_target(str(path))
