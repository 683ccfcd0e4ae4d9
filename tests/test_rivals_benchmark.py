"""Other runtimes are timed in processes of their own, which install nothing; those that are not there say so."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tvmfbnet.errors import RuntimeUnavailableError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def rivals(benchmark_script, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the module sets them for its processes, and tests after this one keep theirs
    return benchmark_script("rivals")


@pytest.fixture
def net(rivals, tmp_path):
    """A net that doubles its image, as every runtime finds it."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Add", ["input", "input"], ["output"])], "net", ends[:1], ends[1:])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "net.onnx")
    np.save(tmp_path / "image.npy", np.float32([[[[1, 2], [3, 4]]]]))
    return rivals.RivalNet(tmp_path, "fbnet_mini", "any", tmp_path / "wheels")


def test_a_runtime_runs_in_a_process_that_can_install_nothing(rivals, net):
    rival = rivals.Rival("onnxruntime", net)
    try:
        assert rival.output.tolist() == [2.0, 4.0, 6.0, 8.0] and re.match(r"\d+\.", rival.version)
        assert 0 < rival.pass_ms(5) < 1000
        environment = Path(f"/proc/{rival._process.pid}/environ").read_bytes().split(b"\0")
        assert {b"PIP_NO_INDEX=1", b"OMP_NUM_THREADS=1"} <= set(environment)
    finally:
        rival.close()
    assert rival._process.returncode is not None


def test_a_rival_that_dies_is_left_out_and_the_others_are_timed(rivals, net, capsys):
    processes = [rivals.Rival("onnxruntime", net) for _ in range(2)]
    try:
        processes[1].name = "mnn"
        processes[1]._process.kill()
        alive = rivals.time_in_turn(processes, 2, 0.1)
        assert alive == processes[:1] and len(alive[0].times_ms) == 2
        assert "mnn is left out, its process died: " in capsys.readouterr().out
        processes[0]._process.kill()
        with pytest.raises(RuntimeUnavailableError, match="the process of onnxruntime died"):
            rivals.time_in_turn(alive, 2, 0.1)
    finally:
        for process in processes:
            process.close()


def test_a_runtime_that_is_not_installed_says_so(rivals, net):
    with pytest.raises(RuntimeUnavailableError, match="ModuleNotFoundError: No module named 'MNN'"):
        rivals.Rival("mnn", net)


def test_every_optional_runtime_has_its_version_in_the_requirements(rivals):
    lines = (ROOT / "benchmarks/rivals.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if re.fullmatch(r"[\w.-]+==[\w.]+", line)}
    assert len(pinned) == sum(not line.startswith("#") for line in lines)
    own = {"apache-tvm", "onnxruntime", "torch"}
    needed_by_others = {"pnnx", "ruamel.yaml", "tabulate", "torchao"}
    assert {package for _, package in rivals.RUNTIMES.values()} - own == pinned - needed_by_others


def test_no_runtime_is_loaded_through_the_script_that_installs_packages():
    source = (ROOT / "benchmarks/rival_runtimes.py").read_text()
    assert "import MNN" in source and not re.search(r"(from|import) MNN\.tools", source)
