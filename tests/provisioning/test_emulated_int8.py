"""Blocks in int8 on emulated ARM cores with each kind of dot product equal the reference within a step."""

import pytest
from integer_parts import SPACE, input_of, random_schedules, steps
from test_emulated import skip_where_missing
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, lower
from tvmfbnet.dtypes import INT8
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.session import run_library
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]

# By the emulator's name: what LLVM compiles for. The emulator has no core with i8mm, only all features at once.
CORES = {"cortex-a53": "cortex-a53", "cortex-a76": "cortex-a76", "max": "cortex-a710"}
# Pairs of pixels differ from other dot products in pointwise kernels alone, of odd and of even widths.
BLOCKS = {"max": [("k3_e3", 1), ("k3_e3", 2)]}
OF_OTHERS = [("conv_k3", 2), ("linear", 1), ("k3_e3", 1), ("k5_e1_g2", 2)]


def emulated(core):
    """The shipped emulated target with another core."""
    target = load_target("qemu_arm")
    emulator = [core if item == "cortex-a72" else item for item in target.transport.emulator]
    transport = target.transport.model_copy(update={"emulator": emulator})
    return resolve(target.model_copy(update={"tvm": {**target.tvm, "mcpu": CORES[core]}, "transport": transport}))


@pytest.mark.parametrize("core", CORES)
def test_parts_in_int8_equal_the_reference_on_an_arm_core(core, tmp_path):
    skip_where_missing("qemu_arm")
    (tmp_path / "small.yaml").write_text(SPACE)
    parts = load_space(str(tmp_path / "small.yaml")).distinct_parts()
    chosen = [part for part in parts if (part.block, part.stride) in BLOCKS.get(core, OF_OTHERS)]
    target = emulated(core)
    compiled_for = target.for_tvm()
    with connect_device(target) as endpoint, RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
        for number, (part, model) in enumerate(export_parts(chosen, INT8).items()):
            mod, database = lower(model, compiled_for), ms.database.MemoryDatabase()
            assert random_schedules(mod, compiled_for, database, number) == []
            library = save_library(build(mod, compiled_for, database), tmp_path / f"part{number}.so", target)
            source, expected, step = input_of(part, model, compiled_for)
            actual = worker.call(run_library, str(library), [source], seconds=target.timeouts.session)
            assert steps(actual, expected, step) <= 1.0 + 1e-3, part.name
