"""A dtype is one object: float64, registered by this test alone, goes from target to shipped package.

No other file knows of it. The product never offers it, but TVM compiles it for this CPU, so all of it is real.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from brief_target import brief_target
from tvm import relax

from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import existing_database
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.cli.main import app
from tvmfbnet.compiler.cold_weights import pool_for
from tvmfbnet.compiler.export import export_parts
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.compiler.weight_copies import constant_bytes
from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import compile_net, load_package, untrained_net
from tvmfbnet.deploy.trial import certify_and_time
from tvmfbnet.dtypes import DTYPES, DType
from tvmfbnet.errors import LatencyError, PackageError, RuntimeUnavailableError
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.repository import journal_path, load_table
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import context_of
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import ResolvedTarget, load_target, resolve, target_key

FLOAT64 = DType(
    name="float64",
    boundary="float64",
    accumulator="float64",
    reference="float64",
    parity_limit=1e-9,
    parity_reason="float32 is not this exact anywhere, float64 rounds at 1e-16",
)
SPACE = """
input: {channels: 1, height: 8, width: 8}
classes: 4
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 1, stride: 1}]
blocks: [k3_e1, k3_e1_g2, skip]
last_channels: 16
"""
VERY_BRIEF = {"visits": 1, "chain_runs": 3, "trial_rotate_mb": 1}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(DTYPES, "float64", FLOAT64)


@pytest.fixture
def space(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPACE)
    return load_space(str(tmp_path / "tiny.yaml"))


def target_in(folder: Path, dtype: str) -> ResolvedTarget:
    """This machine with a dtype, under one name."""
    file = folder / f"{dtype}.yaml"
    file.write_text(brief_target(**VERY_BRIEF) + f"dtype: {dtype}\n")
    return resolve(load_target(str(file)))


def types_in(model: onnx.ModelProto) -> set[str]:
    """Names of the floating types of a model's inputs, outputs and weights."""
    elements = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    elements |= {weights.data_type for weights in model.graph.initializer}
    names = {onnx.helper.tensor_dtype_to_np_dtype(element) for element in elements}
    return {name.name for name in names if np.issubdtype(name, np.floating)}


def test_kernels_of_a_dtype_are_scheduled_by_their_bytes(space, tmp_path):
    targets = [target_in(tmp_path, name) for name in ("float32", "float64")]
    assert targets[0].tvm == targets[1].tvm and target_key(targets[0]) != target_key(targets[1])
    compiled_for = targets[1].for_tvm()
    registers, keys, weights = registers_of(compiled_for), [], []
    parts = [space.layers[0].cell("k3_e1"), space.head[0]]
    for target in targets:
        dtype = target.data_type
        models = export_parts(parts, dtype)
        assert all(types_in(model) == {dtype.name} for model in models.values())
        lowered = [lower(model, compiled_for) for model in models.values()]
        kernels = [kernel for mod in lowered for kernel in kernels_of(mod, compiled_for) if kernel.is_conv]
        keys.append([kernel.key for kernel in kernels])
        for kernel in kernels:
            shape = shape_of(kernel.mod)
            assert (shape.element_bytes, shape.sum_bytes) == (dtype.bytes, dtype.bytes)
            widest = registers.vector_bytes // dtype.bytes
            ways = all_knobs(shape, registers)
            assert max(knobs.lanes for knobs in ways) == min(widest, shape.channels)
            assert all(
                str(param.dtype) == dtype.name for param in apply_knobs(kernel.mod, shape, ways[0]).mod["main"].params
            )
        weights.append(constant_bytes(lowered[1]))
    assert weights[1] == 2 * weights[0]
    assert not set(keys[0]) & set(keys[1]), "a kernel of one dtype was taken for one of another"


def test_weight_pools_are_filled_by_bytes(space, tmp_path):
    compiled_for = target_in(tmp_path, "float64").for_tvm()
    (model,) = export_parts([space.head[0]], FLOAT64).values()
    kernel = next(kernel for kernel in kernels_of(lower(model, compiled_for), compiled_for) if kernel.is_conv)
    shape = shape_of(kernel.mod)
    scheduled = apply_knobs(kernel.mod, shape, all_knobs(shape, registers_of(compiled_for))[0])
    pool = pool_for(scheduled.mod, 1e5)
    one = pool.values // pool.slices
    assert 8 * one % 64 == 0 and 8 * pool.values >= 1e5 > 8 * (pool.values - one)


@pytest.mark.slow
@pytest.mark.rpc
def test_a_net_is_tuned_timed_packed_and_benched_in_it(space, tmp_path, capsys):
    from tvmfbnet.pipeline.tuning import tune_space
    from tvmfbnet.pipeline.tuning_options import TuneOptions

    root, target, single = tmp_path / "logs", target_in(tmp_path, "float64"), target_in(tmp_path, "float32")
    context = context_of(target)
    assert context.dtype == "float64" and context.key != context_of(single).key

    # tune, and time blocks in nets on the device
    outcome = tune_space(space, load_target(str(tmp_path / "float64.yaml")), TuneOptions(trials=1, batch=2), root)
    assert outcome.timed == outcome.parts and not outcome.report.untuned
    assert {item.dtype for item in Journal(journal_path("mine", root)).read()} == {"float64"}
    table = load_table("mine", root, context)
    assert not table.missing(space.distinct_parts()) and table.data_type.bytes == 8
    with pytest.raises(LatencyError, match="made in another context"):
        load_table("mine", root, context_of(single))
    trials = [trial for tried in TrialLog(root / "mine/database/trials.jsonl").templated.values() for trial in tried]
    assert trials and all(trial.shape.element_bytes == trial.shape.sum_bytes == 8 for trial in trials)

    # pack
    arch = Arch(("k3_e1",))
    net = untrained_net(arch, space)
    package = compile_net(net, target, existing_database(target, root), tmp_path / "package")
    assert package.kernels.missing == () and package.kernels.needed > 3
    described = json.loads((package.folder / "package.json").read_text())
    assert (described["dtype"], described["input_dtype"]) == ("float64", "float64")
    assert types_in(onnx.load(str(package.model))) == {"float64"}
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(package.library)), tvm.cpu())
    image = np.random.default_rng(5).standard_normal(package.input_shape)
    assert machine["main"](tvm.runtime.tensor(image, tvm.cpu())).numpy().dtype == np.float64
    with pytest.raises(Exception, match="float64"):
        machine["main"](tvm.runtime.tensor(image.astype(np.float32), tvm.cpu()))

    # parity: no float32 kernel, weight or image on the way could be this close
    package, _ = certify_and_time(package, net, target)
    parity = package.description.parity
    assert parity.verdict == "passed" and parity.error < 1e-12 < parity.limit == 1e-9
    with pytest.raises(PackageError, match="computes in float64, and target mine in float32"):
        load_package(package.folder, single)

    # bench: ONNX Runtime has no float64 convolutions, which is a note, or an error where it was asked for
    command = ["bench", str(package.folder), "--target", str(tmp_path / "float64.yaml"), "--json"]
    capsys.readouterr()
    assert app(args=command, standalone_mode=False) in (0, None)
    told = capsys.readouterr()
    values = json.loads(told.out)
    assert values["latency_ms"] > 0 and values["onnxruntime_ms"] is None
    assert [runtime["name"] for runtime in values["runtimes"]] == ["tvm"]
    assert "note: ONNX Runtime is not timed: ONNX Runtime cannot run" in " ".join(told.err.split())
    with connect_device(target) as endpoint, pytest.raises(RuntimeUnavailableError, match="cannot run"):
        bench_package(package, target, endpoint, runtimes=["onnxruntime"])
