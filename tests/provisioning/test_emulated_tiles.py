"""What an untrained search tries first on an ARM core computes what it should, under qemu."""

import numpy as np
import onnxruntime
import pytest
from test_emulated import skip_where_missing
from tvm.s_tir import meta_schedule as ms

from tvmfbnet.autotune.candidate import argument_infos
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, coverage, kernels_of, lower
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.session import run_library
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

pytestmark = [pytest.mark.emulated, pytest.mark.rpc, pytest.mark.slow]


def first_candidate(shape, registers, staged):
    """The best by the heuristic, of those that load that number of channels at once, if any do."""
    cost_model, ways = TrialCostModel(registers), all_knobs(shape, registers)
    alike = [knobs for knobs in ways if knobs.staged == staged] or ways
    return min(alike, key=lambda knobs: cost_model.heuristic(shape, knobs))


def test_first_candidates_equal_onnx_runtime_on_an_emulated_core(tmp_path):
    skip_where_missing("qemu_arm")
    target, space = resolve(load_target("qemu_arm")), load_space("fbnet_mini")
    compiled_for = target.for_tvm()
    registers, staged, paddings = registers_of(compiled_for), set(), set()
    parts = [space.stem, space.layers[1].cell("k3_e6"), space.layers[1].cell("k3_e6"), space.layers[2].cell("k5_e3")]
    with connect_device(target) as endpoint, RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
        for number, part in enumerate(parts):
            (model,) = export_parts([part]).values()
            lowered, database = lower(model, compiled_for), ms.database.MemoryDatabase()
            for kernel in kernels_of(lowered, compiled_for):
                if (shape := shape_of(kernel.mod)) is None:
                    continue
                knobs = first_candidate(shape, registers, 2 if number == 2 else 4)
                staged.add(knobs.staged)
                paddings.add(knobs.padding)
                schedule = apply_knobs(kernel.mod, shape, knobs)
                record = (schedule.trace, database.commit_workload(kernel.mod), [1e-3], compiled_for)
                database.commit_tuning_record(ms.database.TuningRecord(*record, argument_infos(schedule)))
            assert coverage(lowered, compiled_for, database).missing == ()
            library = save_library(build(lowered, compiled_for, database), tmp_path / f"part{number}.so", target)
            image = np.random.default_rng(number).standard_normal(part_input_shape(part)).astype(np.float32)
            got = worker.call(run_library, str(library), [image], seconds=target.timeouts.session)
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            (expected,) = session.run(None, {"input": image})
            assert np.abs(got - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max()), part.name
    assert staged == {0, 2, 4} and "border" in paddings
