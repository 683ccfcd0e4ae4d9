"""LiteRT beside the other int8 nets: what is said where it is missing, and whether one delegate runs a whole net."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tvmfbnet.errors import ParityError, RuntimeUnavailableError, StorageError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.registry import load_space

CONV = {"op_name": "CONV_2D", "inputs": [0, 5], "outputs": [1]}
MEAN = {"op_name": "MEAN", "inputs": [1], "outputs": [2]}
WHOLE = {"op_name": "DELEGATE", "inputs": [0, 5], "outputs": [2]}
BEFORE = {"op_name": "DELEGATE", "inputs": [0, 5], "outputs": [1]}
AFTER = {"op_name": "DELEGATE", "inputs": [1], "outputs": [2]}


@pytest.fixture
def script(benchmark_script, monkeypatch):
    """Imports a benchmark by name, without LiteRT."""
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "litert_torch", "ai_edge_quantizer"):
        monkeypatch.setitem(sys.modules, name, None)
    return benchmark_script


@pytest.mark.parametrize(
    ("ops", "whole"),
    [([CONV, MEAN, WHOLE], True), ([CONV, MEAN], False), ([CONV, MEAN, BEFORE], False), ([CONV, MEAN, AFTER], False),
     ([CONV, MEAN, BEFORE, AFTER], False)],
)  # fmt: skip
def test_a_net_is_delegated_only_if_no_node_runs_outside(script, ops, whole):
    assert script("litert_net").all_delegated(ops, [2]) is whole


def test_a_missing_litert_is_told_in_one_line(script):
    with pytest.raises(RuntimeUnavailableError, match=r"^timing LiteRT needs ai_edge_litert.*pip install ai-edge-lit"):
        script("litert_net").LiteRtNet(Path("net.tflite"), np.zeros((1, 3, 8, 8), "float32"))


def test_outputs_of_another_net_are_refused(script):
    correlation, image = script("litert_net").correlation, np.arange(10.0)
    assert correlation(image + [0.5, -0.5] * 5, image[None]) > 0.95
    for other in (-image, np.zeros(10), np.arange(9.0)):
        with pytest.raises(ParityError, match="not the same net"):
            correlation(other, image)


def test_a_missing_or_damaged_model_is_told_in_one_line(benchmark_script, tmp_path):
    """Only where LiteRT is installed."""
    pytest.importorskip("ai_edge_litert")
    file = tmp_path / "net.tflite"
    for content in (None, b"no model"):
        if content:
            file.write_bytes(content)
        with pytest.raises(StorageError, match="no model that LiteRT can load"):
            benchmark_script("litert_net").LiteRtNet(file, np.zeros((1, 3, 8, 8), "float32"))


@pytest.mark.parametrize(("name", "option"), [("int8_net", "--tflite"), ("litert_model", "--out")])
def test_the_scripts_exit_with_code_2_where_litert_is_missing(
    script, monkeypatch, capsys, tiny_space_file, tmp_path, name, option
):
    module = script(name)
    space = load_space(str(tiny_space_file))
    arch = format_arch(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    words = ["--space", str(tiny_space_file), "--arch", arch, option, str(tmp_path / "net.tflite")]
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    assert exit_.value.code == 2
    assert "pip install" in capsys.readouterr().err.strip().splitlines()[-1]
