"""GPU templates: every kind of kernel equals ONNX Runtime on PoCL, and phones' GPUs get vector loads without barriers.

PoCL runs OpenCL on this machine's CPU and has no half arithmetic: kernels in float16 are compiled and read only.
"""

import re

import onnxruntime
import pytest
import tvm
from test_emulated import skip_where_missing
from tvm.driver import build as build_kernel
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

from tvmfbnet.autotune.candidate import argument_infos
from tvmfbnet.autotune.machines import is_templated, ways_of
from tvmfbnet.autotune.plan import Plan, TuningTask
from tvmfbnet.autotune.templates import apply_knobs, machine_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build, coverage, kernels_of, lower
from tvmfbnet.compiler.shapes import part_input_shape
from tvmfbnet.dtypes import FLOAT16, FLOAT32, random_tensor
from tvmfbnet.pipeline.tuning import spent_on
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.remote import RemoteWorker
from tvmfbnet.rpc.session import KernelTiming, run_library
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

SPACE = """
input: {channels: 3, height: 12, width: 12}
classes: 10
stem: {channels: 8, stride: 2}
stages:
  - {channels: 8, layers: 1, stride: 1}
  - {channels: 24, layers: 1, stride: 2}
blocks: [k3_e3, k5_e1_g2]
last_channels: 40
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The parts of a small space that has every kind of kernel, by dtype."""
    path = tmp_path_factory.mktemp("space") / "small.yaml"
    path.write_text(SPACE)
    parts = load_space(str(path)).distinct_parts()
    return {dtype.name: export_parts(parts, dtype) for dtype in (FLOAT32, FLOAT16)}


@pytest.mark.emulated
@pytest.mark.rpc
@pytest.mark.slow
def test_every_kind_of_kernel_equals_onnx_runtime_whatever_its_knobs(models, tmp_path):
    skip_where_missing("pocl")
    target, kinds = resolve(load_target("pocl")), set()
    compiled_for = target.for_tvm()
    machine = machine_of(compiled_for)
    with connect_device(target) as endpoint, RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
        for number, (part, model) in enumerate(models["float32"].items()):
            lowered, database = lower(model, compiled_for), ms.database.MemoryDatabase()
            for kernel in kernels_of(lowered, compiled_for):
                shape = shape_of(kernel.mod)
                if shape is None or not is_templated(shape, machine):
                    continue
                kinds.add((shape.kind, shape.kernel > 1, shape.group < shape.channels and shape.kind == "conv"))
                ways = ways_of(shape, machine)
                schedule = apply_knobs(kernel.mod, shape, ways[number * 37 % len(ways)])
                record = (schedule.trace, database.commit_workload(kernel.mod), [1e-3], compiled_for)
                database.commit_tuning_record(ms.database.TuningRecord(*record, argument_infos(schedule)))
            assert coverage(lowered, compiled_for, database).missing == ()
            library = save_library(build(lowered, compiled_for, database), tmp_path / f"{number}.so", target)
            image = random_tensor(part_input_shape(part), "float32", number)
            got = worker.call(run_library, str(library), [image], seconds=target.timeouts.session)
            session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            (expected,) = session.run(None, {"input": image})
            assert relative_error(got, expected) < 1e-5, part.name
    kernels = {("conv", False, False), ("conv", False, True), ("conv", True, False), ("depthwise", True, False)}
    assert kernels | {("matmul", False, False), ("pool", True, False), ("move", False, False)} <= kinds


@pytest.fixture(scope="module")
def kernels(models):
    """The distinct kernels that GPU templates schedule, by dtype; every GPU has the same."""
    compiled_for = resolve(load_target("mali")).for_tvm()
    lowered = {dtype: [lower(model, compiled_for) for model in parts.values()] for dtype, parts in models.items()}
    distinct = {
        dtype: {kernel.key: kernel for mod in mods for kernel in kernels_of(mod, compiled_for)}
        for dtype, mods in lowered.items()
    }
    return {dtype: list(by_key.values()) for dtype, by_key in distinct.items()}


def sources_of(kernels, name):
    """Each templated kernel's shape, the knobs that are tried first, and its source for a target."""
    compiled_for = resolve(load_target(name)).for_tvm()
    machine = machine_of(compiled_for)
    for kernel in kernels:
        shape = shape_of(kernel.mod)
        if shape is not None and is_templated(shape, machine):
            knobs = ways_of(shape, machine)[0]
            scheduled = apply_knobs(kernel.mod, shape, knobs).mod
            built = build_kernel(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(scheduled), compiled_for)
            yield shape, knobs, built.imports[0].inspect_source()


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("mali", "float32", ("vload4(", "vstore4(", "float4")),
        ("mali", "float16", ("vload4(", "vstore4(", "half4")),
        ("adreno", "float32", ("vload4(", "vstore4(", "float4")),
        ("apple_gpu", "float32", ("float4*)",)),
    ],
)
def test_first_candidates_for_phones_load_vectors_and_share_no_memory(kernels, name, dtype, words):
    kinds = set()
    for shape, knobs, source in sources_of(kernels[dtype], name):
        kinds.add(shape.kind)
        assert not re.search(r"__local|barrier|threadgroup (float|half)", source), (shape, source)
        if knobs.lanes == 4 and shape.kind != "move":  # transposes read one by one
            assert all(word in source for word in words), (shape, source)
    assert kinds == {"conv", "depthwise", "matmul", "pool", "move"}


def test_trials_of_a_gpus_kernels_without_templates_count_towards_no_budget(kernels, tmp_path):
    tasks = tuple(TuningTask(kernel, 1) for kernel in kernels["float32"])
    gpu, cpu = (Plan(load_space("fbnet_mini"), resolve(load_target(name)), {}, {}, tasks) for name in ("mali", "host"))
    log = TrialLog(tmp_path / "trials.jsonl")
    for task in tasks:  # as an earlier version wrote them
        log.append(task.kernel, None, [None], [KernelTiming((1.0,))])
    templated = len(gpu.gpu_templated)
    assert spent_on(cpu, log) == len(tasks) > templated > len(tasks) // 2
    assert spent_on(gpu, log) == len(tasks) - templated  # MetaSchedule's search goes on with the others
    assert log.best_ms[tasks[0].kernel.key] == 1.0


def test_a_gpu_target_says_its_own_limit_and_device():
    mali, adreno = (resolve(load_target(name)).for_tvm() for name in ("mali", "adreno"))
    assert machine_of(mali).most_threads == machine_of(adreno).most_threads == 256
    assert machine_of(adreno).warp == 64 and machine_of(mali).warp == 16
    assert machine_of(tvm.target.Target({"kind": "opencl", "max_threads_per_block": 64})).most_threads == 64
