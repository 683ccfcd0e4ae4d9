"""Threads are real: with several, kernels run in parallel and compute the same; with one, none is parallel."""

import json
import random
import shutil
import sys
from dataclasses import replace

import cloudpickle
import numpy as np
import pytest
import tvm
from tvm.driver import build
from tvm.s_tir.meta_schedule.arg_info import ArgInfo

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cost_model import TrialCostModel
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.evolution import EvolutionSearch, new_cost_model
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.parallel_tiles import chunks, evenness
from tvmfbnet.autotune.registers import Registers
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import build as build_library
from tvmfbnet.compiler.lowering import build_prepared, kernels_of, lower, prepare
from tvmfbnet.pipeline.tuning import tune_space
from tvmfbnet.pipeline.tuning_options import TuneOptions
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# The worker process cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SPACE = """
input: {channels: 3, height: 64, width: 64}
classes: 10
stem: {channels: 16, stride: 2}
stages:
  - {channels: 24, layers: 1, stride: 2}
blocks: [k3_e3]
last_channels: 40
"""


def with_threads(threads):
    return resolve(load_target("host").model_copy(update={"threads": threads}))


def compiled_for(threads):
    return tvm.target.Target(with_threads(threads).tvm)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    return load_space(str(path))


@pytest.fixture(scope="module")
def lowered(space):
    models = export_parts(space.distinct_parts())
    return {part: lower(model, compiled_for(2)) for part, model in models.items()}


@pytest.fixture(scope="module")
def kernels(lowered):
    by_key = {kernel.key: kernel for mod in lowered.values() for kernel in kernels_of(mod, compiled_for(2))}
    return [(kernel, shape) for kernel in by_key.values() if (shape := shape_of(kernel.mod))]


def starts_threads(executable_or_module):
    """Whether compiled code calls TVM's thread pool."""
    return "TVMBackendParallelLaunch" in executable_or_module.inspect_source("ll")


def output_of(mod, arguments, threads):
    tensors = [tvm.runtime.tensor(argument, tvm.cpu()) for argument in arguments]
    built = build(mod, target=compiled_for(threads))
    built["main"](*tensors)
    return tensors[-1].numpy(), starts_threads(built)


def test_the_resolved_target_tells_tvm_how_many_threads_there_are():
    assert [with_threads(threads).tvm["num-cores"] for threads in (1, 2, 4)] == [1, 2, 4]
    assert registers_of(compiled_for(4)) == replace(registers_of(compiled_for(1)), threads=4)


def test_parallel_kernels_compute_what_serial_ones_do(kernels):
    chooser, rng = random.Random(0), np.random.default_rng(0)
    for kernel, shape in kernels:
        infos = ArgInfo.from_prim_func(kernel.mod["main"])
        arguments = [rng.standard_normal([int(size) for size in info.shape]).astype("float32") for info in infos]
        expected, _ = output_of(kernel.mod, arguments, 1)
        ways = [knobs for knobs in all_knobs(shape, registers_of(compiled_for(2))) if knobs.parallel]
        assert ways or shape.kind in ("matmul", "pool"), f"{shape} has no parallel schedule"
        kinds = {(knobs.parallel, knobs.padding): knobs for knobs in chooser.sample(ways, min(40, len(ways)))}
        for knobs in list(kinds.values())[:3]:
            scheduled = apply_knobs(kernel.mod, shape, knobs)
            assert "T.parallel" in scheduled.mod.script()
            actual, parallel = output_of(scheduled.mod, arguments, 2)
            assert parallel, f"{knobs} compiles to serial code"
            np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4, err_msg=f"{shape} {knobs}")


def test_one_thread_gets_no_parallel_loop(kernels):
    registers = registers_of(compiled_for(1))
    for kernel, shape in kernels:
        ways = all_knobs(shape, registers)
        assert not any(knobs.parallel for knobs in ways)
        scheduled = apply_knobs(kernel.mod, shape, random.Random(0).choice(ways))
        assert "T.parallel" not in scheduled.mod.script()
        assert not starts_threads(build(scheduled.mod, target=compiled_for(1)))


def test_one_loop_more_is_parallel_only_where_that_shares_the_work_more_evenly():
    shape = KernelShape("conv", 14, 14, 48, reduction=64, group=48)
    registers = Registers(32, 64, threads=2)
    ways = [replace(Knobs(2, 7, 16, 16), parallel=count) for count in (1, 2, 3)]
    assert [chunks(shape, way) for way in ways] == [3, 21, 42]
    assert [evenness(shape, way, registers) for way in ways] == [0.75, 21 / 22, 1.0]
    offered = {way.parallel for way in all_knobs(shape, registers) if replace(way, parallel=0) == Knobs(2, 7, 16, 16)}
    assert offered == {0, 1, 2, 3}
    even = {w.parallel for w in all_knobs(shape, registers) if replace(w, parallel=0) == Knobs(7, 1, 48, 16, "yxc")}
    assert even == {0, 1}, "two rows of tiles are two threads' work already"


def test_the_cost_model_learns_when_threads_pay():
    """Two threads speed up a large kernel and slow down a small one, on a synthetic machine with a launch cost."""
    registers = Registers(32, 64, threads=2)

    def invented_ms(shape, knobs):
        share = 1 / (2 * evenness(shape, knobs, registers)) if knobs.parallel else 1.0
        return shape.products * 1e-7 * share + (0.02 if knobs.parallel else 0.0)

    cost_model = TrialCostModel(registers)
    trained_shapes = [KernelShape("conv", size, size, 32, reduction=32, group=32) for size in (7, 8, 28, 56)]
    for shape in trained_shapes:
        for knobs in all_knobs(shape, registers)[::11]:
            cost_model.add(shape, knobs, invented_ms(shape, knobs))
    for size, parallel in ((7, False), (28, True)):
        shape = KernelShape("conv", size, size, 48, reduction=32, group=48)
        ways = all_knobs(shape, registers)
        chosen = ways[int(cost_model.predict_ms(shape, cost_model.rows(shape, ways)).argmin())]
        assert bool(chosen.parallel) == parallel


def test_the_untrained_cost_model_takes_threads_for_large_kernels_only():
    cost_model = TrialCostModel(Registers(32, 64, threads=2))
    large, small = KernelShape("conv", 56, 56, 64, reduction=64), KernelShape("conv", 4, 4, 16, reduction=16)
    serial, parallel = Knobs(2, 2, 16, 16, "yxc"), Knobs(2, 2, 16, 16, "yxc", parallel=1)
    assert cost_model.heuristic(large, parallel) < cost_model.heuristic(large, serial)
    assert cost_model.heuristic(small, parallel) > cost_model.heuristic(small, serial)


def test_trials_logged_before_there_were_parallel_loops_count_as_serial(tmp_path):
    knobs = Knobs(1, 4, 16, 16).to_dict()
    del knobs["parallel"]
    shape = {"kind": "conv", "height": 8, "width": 8, "channels": 16}
    record = {"task": "a", "kind": "", "best_ms": 0.5, "error": "", "shape": shape, "knobs": knobs}
    path = tmp_path / "trials.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (trial,) = TrialLog(path).templated["a"]
    assert trial.knobs == Knobs(1, 4, 16, 16) and trial.knobs.parallel == 0


@pytest.mark.parametrize("best_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_trial_logged_without_a_run_time_counts_as_failed_and_divides_nothing(tmp_path, best_ms):
    shape = {"kind": "conv", "height": 8, "width": 8, "channels": 16}
    record = {"kind": "", "error": "", "shape": shape, "knobs": Knobs(1, 4, 16, 16).to_dict()}
    lines = [{**record, "task": "a", "best_ms": best_ms}, {**record, "task": "b", "best_ms": 0.5}]
    path = tmp_path / "trials.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = TrialLog(path)
    assert dict(log.spent) == {"a": 1, "b": 1} and sum(log.failures.values()) == 1
    assert set(log.best_ms) == {"b"} and log.templated["a"][0].best_ms is None
    assert len(log.seeds("c", log.templated["b"][0].shape, 5)) == 1


@pytest.mark.slow
def test_kernels_without_templates_get_parallel_candidates_too(kernels, tmp_path):
    kernel = next(kernel for kernel, shape in kernels if shape.kind == "conv" and shape.kernel == 1)
    database = TuningDatabase(tmp_path, repair=True)
    search = EvolutionSearch(kernel, compiled_for(2), database, new_cost_model(), 8, 0, population=16)
    assert any("T.parallel" in candidate.schedule.mod.script() for candidate in search.propose())


def test_kernels_without_a_schedule_are_parallel_where_there_are_threads(lowered):
    part, mod = next((part, mod) for part, mod in lowered.items() if part.block == "k3_e3")
    image = np.random.default_rng(0).standard_normal((1, part.height, part.width, part.cin)).astype("float32")
    outputs, parallel = [], []
    for threads in (1, 2):
        executable = build_library(mod, compiled_for(threads), None)
        machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
        outputs.append(machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy())
        parallel.append("TVMBackendParallelLaunch" in _code(executable))
    assert parallel == [False, True]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


def _code(executable):
    return "".join(module.inspect_source("ll") for module in _modules(executable.mod) if module.kind == "llvm")


def _modules(module):
    return [module, *(inner for child in module.imports for inner in _modules(child))]


def test_a_tuned_schedule_stays_as_tuning_left_it(kernels, lowered, tmp_path):
    """What was timed serial is compiled serial, also for two threads."""
    database = TuningDatabase(tmp_path, repair=True)
    _, mod = next((part, mod) for part, mod in lowered.items() if part.block == "k3_e3")
    for kernel in kernels_of(mod, compiled_for(2)):
        if shape := shape_of(kernel.mod):
            knobs = next(knobs for knobs in all_knobs(shape, registers_of(compiled_for(2))) if not knobs.parallel)
            database.add(
                ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs), kernel, compiled_for(2), 1.0
            )
    prepared = prepare(mod, compiled_for(2), database.records)
    assert "TVMBackendParallelLaunch" not in _code(build_prepared(prepared, compiled_for(2)))


def threads_there(session):
    return int(session.remote.get_function("runtime.NumThreads")())


NATIVE = pytest.param(
    "native", 2, marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("cmake"), reason="cmake")]
)


@pytest.mark.rpc
@pytest.mark.parametrize(("server", "threads"), [("python", 1), ("python", 2), NATIVE])
def test_a_local_server_runs_kernels_with_the_targets_threads(server, threads):
    target = with_threads(threads)
    target = target.model_copy(update={"transport": target.transport.model_copy(update={"server": server})})
    with connect_device(target) as endpoint, worker_for(target, endpoint) as worker:
        assert worker.call(threads_there, seconds=60) == threads


@pytest.mark.rpc
@pytest.mark.slow
def test_tuning_with_two_threads_times_parallel_candidates_and_compiles_what_it_found(space, tmp_path):
    host = load_target("host")
    target = host.model_copy(
        update={"name": "two", "threads": 2, "timing": host.timing.model_copy(update={"repeats": 3, "visits": 1})}
    )
    outcome = tune_space(space, target, TuneOptions(trials=1, measure_share=0.0, batch=4), tmp_path)
    assert not outcome.report.untuned
    (path,) = (tmp_path / "two").rglob("trials.jsonl")
    trials = [trial for trials in TrialLog(path).templated.values() for trial in trials]
    valid = [trial for trial in trials if trial.best_ms is not None]
    assert any(trial.knobs.parallel for trial in valid) and any(not trial.knobs.parallel for trial in valid)
