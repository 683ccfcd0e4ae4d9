"""Batches: a net of several images a call equals ONNX Runtime's, in kernels of our templates; and what is refused."""

import random

import numpy as np
import pytest
from brief_target import brief_target
from typer.testing import CliRunner

from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.autotune.templates import apply_knobs, registers_of, shape_of
from tvmfbnet.batches import name_with_batch, named_batch, split_batch
from tvmfbnet.cli.main import app
from tvmfbnet.compiler.export import export_net
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import Package, compile_net, untrained_net
from tvmfbnet.deploy.parity import certify
from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxSession
from tvmfbnet.dtypes import FLOAT32, random_tensor
from tvmfbnet.errors import ConfigError, LatencyError, PackageError, UserError
from tvmfbnet.latency.sources.registry import source_of
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table, require_batch, write_table
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.remote import worker_for
from tvmfbnet.rpc.session import InputSpec, run_on_images
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import is_target, load_target, measured_name, resolve, target_key

SPACE = """
input: {channels: 3, height: 16, width: 16}
classes: 10
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 1, stride: 1}, {channels: 16, layers: 1, stride: 2}]
blocks: [k3_e1, k5_e3_g2, skip]
last_channels: 24
"""


def scheduled(model, target, folder):
    """A database with a schedule of ours, drawn at random, for every kernel of a net that has a template."""
    compiled_for, database = target.for_tvm(), TuningDatabase(folder, repair=True)
    draw, kinds = random.Random(0), set()
    for kernel in kernels_of(lower(model, compiled_for), compiled_for):
        shape = shape_of(kernel.mod)
        if shape is not None:
            knobs = draw.choice(all_knobs(shape, registers_of(compiled_for)))
            database.add(ScheduleCandidate.of(apply_knobs(kernel.mod, shape, knobs), knobs), kernel, compiled_for, 1.0)
            kinds.add(shape.kind)
    assert {"conv", "depthwise", "pool", "matmul"} <= kinds
    return TuningDatabase(folder, repair=True)


@pytest.mark.slow
@pytest.mark.rpc
def test_a_package_of_a_batch_equals_onnx_runtime_and_takes_as_much_memory_as_foreseen(tmp_path):
    (tmp_path / "mine.yaml").write_text(brief_target(min_repeat_ms=1, rest_seconds=0) + "batch: 4\n")
    (tmp_path / "space.yaml").write_text(SPACE)
    target, space = resolve(load_target(str(tmp_path / "mine.yaml"))), load_space(str(tmp_path / "space.yaml"))
    arch = parse_arch("k3_e1/k5_e3_g2", space)
    net = untrained_net(arch, space)
    database = scheduled(export_net(net.eval(), FLOAT32, batch=4), target, tmp_path / "database")
    package = compile_net(net, target, database, tmp_path / "package")
    assert package.input_shape == (4, 3, 16, 16) and package.kernels.missing == ()
    choice = [layer.blocks.index(block) for layer, block in zip(space.layers, arch.blocks, strict=True)]
    assert package.description.peak_memory_bytes == PeakMemory.of(space, FLOAT32, 4).value(choice)

    images = random_tensor((6, 3, 16, 16), "float32")
    filled = np.concatenate([images, images[-1:], images[-1:]])
    reference = OnnxSession(package.model, InputSpec(package.input_shape, "float32"), 1, target.timing)
    expected = np.concatenate([reference.run(filled[:4])[0], reference.run(filled[4:])[0][:2]])
    with connect_device(target) as endpoint:
        with worker_for(target, endpoint) as worker:  # a batch, and one of two images that is filled up
            (outputs,) = worker.call(run_on_images, str(package.library), images, 4, seconds=60)
        assert outputs.shape == (6, 10) and relative_error(outputs, expected) < 1e-4
        package = certify(package, net, target, endpoint)
        assert package.description.parity.verdict == "passed"
        # It is refused where its output differs from the package's.
        timed = bench_package(package, target, endpoint, runtimes=["onnxruntime"])
    assert timed.onnxruntime_ms is not None and timed.onnxruntime_ms > 0

    assert Package.load(package.folder, load_target(str(tmp_path / "mine.yaml"))).target.batch == 4
    single = load_target(f"{tmp_path / 'mine.yaml'},batch=1")
    with pytest.raises(PackageError, match=r"computes 4 image\(s\) a call, and target mine 1"):
        Package.load(package.folder, single)


def test_each_batch_has_a_name_of_its_own_however_it_is_spelled(tmp_path):
    host, eight = load_target("host"), load_target("host,batch=8")
    assert (host.name, host.batch, eight.name, eight.batch) == ("host", 1, "host-batch8", 8)
    assert load_target("host-batch8") == eight and is_target("host-batch8") and is_target("host,batch=8")
    assert not is_target("nothing-batch8")
    for text in ("host,batch=8,dtype=float16", "host,dtype=float16,batch=8"):
        both = load_target(text)
        assert (both.name, both.dtype, both.batch) == ("host-batch8", "float16", 8)
    (tmp_path / "mine.yaml").write_text(brief_target() + "batch: 4\n")
    mine = str(tmp_path / "mine.yaml")
    assert (measured_name(mine), measured_name(f"{mine},batch=1")) == ("mine-batch4", "mine")
    assert [source_of(text).name for text in (mine, f"{mine},batch=2", "host,batch=8", "host")] == [
        *("mine-batch4", "mine-batch2", "host-batch8", "host")
    ]
    assert measured_name("pixel3,batch=8") == "pixel3-batch8"
    keys = {target_key(resolve(load_target(text))) for text in ("host", "host,batch=2", "host,batch=8")}
    assert len(keys) == 3
    for name, batch in (("host", 1), ("host", 8), ("a-batch", 2)):
        assert named_batch(name_with_batch(name, batch)) == (name, batch)
    assert split_batch("host") == ("host", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host,batch=0", "a batch is a number of images from 1 to 256"),
        ("host,batch=x", "a batch is a number of images"),
        ("host,batch=2,batch=3", "names two batches"),
        ("host,batch=8,dtype=int8", "kernels in int8 take one image"),
        ("sim_a76,batch=8", "simulated cores time one image"),
        ("mali,batch=8", "kernels of opencl take one image"),
    ],
)
def test_a_batch_that_cannot_be_is_one_clear_line(text, said):
    with pytest.raises(UserError, match=said) as caught:
        load_target(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_a_table_says_its_batch_and_is_refused_for_another(suffix, tiny_space, tmp_path):
    model = LatencyTable.load("simulated:gflops=1,gbps=1", tiny_space)
    path = tmp_path / f"table.{suffix}"
    write_table(LatencyTable(model.cells, 0.1, "host-batch4", origin=model.origin, batch=4), path)
    table = read_table(path)
    assert table.batch == 4 and table.cells == model.cells
    require_batch(table, 4, "table")
    with pytest.raises(LatencyError, match=r"table has latencies of 4 image\(s\) a call, not of 1"):
        require_batch(table, 1, "table")
    imported = ["latency", "import", str(path), "--tuning-logs", str(tmp_path), "--target"]
    with pytest.raises(LatencyError, match="use it with batch 4"):
        CliRunner().invoke(app, [*imported, "pixel3"], catch_exceptions=False)
    assert CliRunner().invoke(app, [*imported, "pixel3,batch=4"]).exit_code == 0
    assert LatencyTable.load("pixel3,batch=4", tuning_logs=tmp_path).batch == 4


def test_a_batch_of_a_table_that_is_no_number_is_refused(tmp_path):
    head = "part,block,cin,cout,height,width,stride,latency_ms,batch\n"
    rows = "block,k3_e1,16,16,8,8,1,0.1,{}\nblock,k3_e3,16,16,8,8,1,0.1,{}\n"
    for values, said in ((("x", "x"), "batch must be a number"), (("2", "4"), "rows name different batches")):
        (tmp_path / "bad.csv").write_text(head + rows.format(*values))
        with pytest.raises(ConfigError, match=said):
            read_table(tmp_path / "bad.csv")
