"""The conformance suite of runtimes: every one that is registered keeps the protocol's promises."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from brief_target import host_values

from tvmfbnet import extras
from tvmfbnet.cli.main import app, main
from tvmfbnet.deploy.bench import bench_package
from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from tvmfbnet.deploy.runtimes.registry import DEFAULTS, OURS, RUNTIMES, rivals
from tvmfbnet.deploy.runtimes.runtime import NetFiles
from tvmfbnet.errors import ParityError, RuntimeUnavailableError, StorageError, UserError
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.relative_error import relative_error
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import list_targets, load_target, resolve

on_every_runtime = pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda runtime: runtime.name)
on_a_device = [pytest.mark.rpc, pytest.mark.slow]
NOWHERE = Endpoint("127.0.0.1", 1, "host")


LOAD_AND_RUN = """
import os, sys
from pathlib import Path
import numpy as np, onnx
from onnx import TensorProto, helper
from tvmfbnet.deploy.runtimes.onnx_runtime import OnnxSession
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.targets.sections import TimingPolicy
shape = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("input", "output")]
graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "relu", shape[:1], shape[1:])
onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), sys.argv[1])
session = OnnxSession(Path(sys.argv[1]), InputSpec((1, 4), "float32"), 1, TimingPolicy())
assert (session.run(np.full((1, 4), -1, np.float32))[0] == 0).all()
assert "ORT_DISABLE_TELEMETRY" not in os.environ
"""


def test_onnx_runtime_reports_to_nobody_and_leaves_nothing_in_the_users_cache(tmp_path):
    (tmp_path / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment = {**kept, "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "home/cache")}
    words = [sys.executable, "-c", LOAD_AND_RUN, str(tmp_path / "relu.onnx")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not [path for path in (tmp_path / "home").rglob("*") if "onnxruntime" in path.name]


def target_file(folder, threads=1):
    """This machine, timed quickly, whatever else goes on here."""
    timing = {"drift_limit": 5.0, "rest_seconds": 0, "repeats": 3, "min_repeat_ms": 1}
    path = folder / f"threads{threads}.yaml"
    path.write_text(yaml.safe_dump(host_values(timing=timing, threads=threads)))
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A small net, its package, and the target that it was compiled for."""
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "tiny.yaml").write_text(
        "input: {channels: 1, height: 16, width: 16}\nclasses: 10\nstem: {channels: 4, stride: 2}\n"
        "stages:\n  - {channels: 4, layers: 1, stride: 2}\nblocks: [k3_e1, k3_e3]\nlast_channels: 8\n"
    )
    space, target = load_space(str(folder / "tiny.yaml")), resolve(load_target(str(target_file(folder))))
    net = untrained_net(parse_arch("k3_e3", space), space)
    return net, compile_net(net, target, None, folder / "package"), target


def files_of(package):
    return NetFiles(package.library, package.model, InputSpec(package.input_shape, package.description.input_dtype))


@on_every_runtime
def test_a_runtime_says_what_it_is_and_the_docs_have_a_row_for_it(runtime):
    assert RUNTIMES[runtime.name] is runtime and runtime.title
    assert re.match(r"\d+\.\d+", runtime.version)
    page = (Path(__file__).parents[2] / "docs/how-to/ship.md").read_text()
    assert re.search(rf"^\| `{runtime.name}` \|", page, re.MULTILINE)


@on_every_runtime
def test_a_runtime_says_in_one_line_why_it_does_not_run_on_a_target(runtime):
    assert runtime.unavailable(load_target("host")) is None
    for name in list_targets():
        target = load_target(name)
        reason = runtime.unavailable(target)
        if reason is not None:
            assert reason and "\n" not in reason
            with pytest.raises(RuntimeUnavailableError, match=re.escape(f"{runtime.name} cannot be timed: {reason}")):
                rivals((runtime.name,), target)
        assert runtime not in rivals((), target)


@pytest.mark.parametrize("threads", [1, 2])
@on_every_runtime
@pytest.mark.rpc
@pytest.mark.slow
def test_a_session_computes_the_net_with_the_targets_threads_and_closes(runtime, threads, compiled, tmp_path):
    net, package, _ = compiled
    target = resolve(load_target(str(target_file(tmp_path, threads))))
    image = np.random.default_rng(3).standard_normal(package.input_shape).astype(np.float32)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(image)).numpy()
    with connect_device(target) as endpoint:
        before = set(psutil.Process().children())
        session = runtime.open(files_of(package), target, endpoint)
        ((output,), (other,)) = session.run(image), session.run(2 * image)
        assert relative_error(output, expected) < 1e-4
        assert relative_error(other, expected) > 1e-3, "it ran another image"
        passes = [session.time_pass() for _ in range(4)]
        assert all(len(timed) == target.timing.repeats and min(timed) > 0 for timed in passes)
        fastest, next_fastest, *_ = sorted(map(min, passes))  # other work on this machine only slows
        assert next_fastest < 8 * fastest, "passes of one net differ in scale"
        assert session.threads == threads
        session.close()
        session.close()
        for closed in (lambda: session.run(image), session.time_pass):
            with pytest.raises(RuntimeError, match="closed"):
                closed()
        left = [child for child in set(psutil.Process().children()) - before if child.is_running()]
        assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


@on_every_runtime
@pytest.mark.rpc
@pytest.mark.slow
def test_a_damaged_file_is_one_line_that_names_it(runtime, compiled, tmp_path):
    _, package, target = compiled
    library, model = tmp_path / "net.so", tmp_path / "net.onnx"
    for path in (library, model):
        path.write_bytes(b"neither a library nor a model")
    damaged = replace(files_of(package), library=library, model=model)
    with connect_device(target) as endpoint, pytest.raises(StorageError) as caught:
        runtime.open(damaged, target, endpoint)
    assert "\n" not in str(caught.value) and "compile the net again" in str(caught.value)
    assert str(library) in str(caught.value) or str(model) in str(caught.value)


def test_an_unknown_runtime_is_refused_before_anything_is_loaded(compiled, tmp_path, capsys):
    with pytest.raises(UserError, match="unknown runtime 'abacus': known are tvm, onnxruntime"):
        rivals(("abacus",), load_target("host"))
    command = ["bench", str(compiled[1].folder), "--target", str(target_file(tmp_path)), "--runtime", "abacus"]
    with pytest.raises(SystemExit) as end:
        main(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: unknown runtime 'abacus'")


def test_the_defaults_are_left_out_where_they_cannot_run():
    assert [runtime.name for runtime in rivals(None, load_target("host"))] == list(DEFAULTS)
    assert rivals(None, load_target("rpi4")) == [] == rivals(None, load_target("qemu_arm"))
    assert rivals((OURS.name, OURS.name), load_target("host")) == [], "the package is timed anyway"
    names = ("onnxruntime", OURS.name, "onnxruntime")
    assert [runtime.name for runtime in rivals(names, load_target("host"))] == ["onnxruntime"]


def test_onnx_runtime_that_is_not_installed_is_no_default_and_says_how_to_install_it(monkeypatch, compiled):
    is_installed = extras._is_installed
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "onnxruntime" and is_installed(module))
    runtime, host = OnnxRuntime(), load_target("host")
    assert runtime.unavailable(host).endswith("pip install 'tvmfbnet[onnxruntime]'")
    assert rivals(None, host) == []
    with pytest.raises(RuntimeUnavailableError, match="which is not installed: pip install"):
        runtime.open(files_of(compiled[1]), compiled[2], NOWHERE)


class Twin(OnnxRuntime):
    """A runtime that only a test knows: ONNX Runtime by another name."""

    name, title = "twin", "The Twin"


class Wrong(Twin):
    """One that computes something else."""

    def open(self, net, target, endpoint):
        session = super().open(net, target, endpoint)
        computed = session.run
        session.run = lambda image: tuple(output + 1 for output in computed(image))
        return session


@pytest.mark.rpc
@pytest.mark.slow
def test_a_runtime_is_in_bench_by_being_registered(compiled, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(RUNTIMES, "twin", Twin())
    command = ["bench", str(compiled[1].folder), "--target", str(target_file(tmp_path))]
    command += ["--runtime", "twin", "--runtime", "onnxruntime"]
    assert app(args=[*command, "--json"], standalone_mode=False) in (0, None)
    values = json.loads(capsys.readouterr().out)
    mine, *others = values["runtimes"]
    assert [runtime["name"] for runtime in others] == ["twin", "onnxruntime"]
    assert (mine["name"], mine["ratio"], mine["latency_ms"]) == ("tvm", 1.0, values["latency_ms"])
    assert mine["interval"] == values["interval"] and mine["spread_ms"] == values["spread_ms"]
    for runtime in others:
        assert set(runtime) == set(mine) and runtime["version"]
        assert runtime["ratio"] == pytest.approx(values["latency_ms"] / runtime["latency_ms"])
        assert 0 < runtime["interval"]["low_ms"] < runtime["latency_ms"] < 2 * runtime["interval"]["high_ms"]
    assert values["onnxruntime_ms"] == others[1]["latency_ms"]
    assert app(args=command, standalone_mode=False) in (0, None)
    table = capsys.readouterr().out
    assert "The Twin, as many threads" in table and "ONNX Runtime, as many threads" in table


@pytest.mark.rpc
@pytest.mark.slow
def test_the_time_of_a_runtime_with_other_outputs_is_not_believed(compiled, monkeypatch, capsys):
    _, package, target = compiled
    monkeypatch.setitem(RUNTIMES, "onnxruntime", Wrong())
    with connect_device(target) as endpoint:
        with pytest.raises(ParityError, match="The Twin's output differs from the package's"):
            bench_package(package, target, endpoint, runtimes=["onnxruntime"])
        capsys.readouterr()
        result = bench_package(package, target, endpoint)
    assert [runtime.name for runtime in result.runtimes] == ["tvm"] and result.onnxruntime_ms is None
    assert "note: The Twin is not timed: The Twin's output differs" in " ".join(capsys.readouterr().err.split())


def test_a_closed_model_is_freed(compiled):
    _, package, target = compiled
    session = OnnxSession(package.model, files_of(package).image, 1, target.timing)
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.time_pass()
