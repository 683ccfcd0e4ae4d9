"""What the tracing exporter gives is what torch's newer one gives; what it cannot export, the newer one does."""

import logging
import warnings

import onnxruntime
import pytest
import torch
from torch import nn

from tvmfbnet.compiler import export
from tvmfbnet.compiler.lowering import kernels_of, lower
from tvmfbnet.space.registry import load_space
from tvmfbnet.targets.definition import load_target, resolve

# Groups with a shuffle, squeeze-and-excitation, hard-swish: what is more than a conv and a ReLU.
SPACE = """
input: {channels: 3, height: 16, width: 16}
classes: 10
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 2, stride: 1}]
blocks: [k3_e3, k3_e1_g2, k3_e3_se_hswish, skip]
last_channels: 16
"""


class Spectrum(nn.Module):
    """An operator that tracing exports cannot express."""

    def forward(self, x):
        return torch.fft.fft(x, dim=1).real


def by_newer_exporter(monkeypatch):
    """Has the tracing exporter refuse everything."""
    stock = torch.onnx.export

    def refuse(*arguments, dynamo, **options):
        if not dynamo:
            raise torch.onnx.errors.UnsupportedOperatorError("aten::conv2d", 20, None)
        stock(*arguments, dynamo=dynamo, **options)

    monkeypatch.setattr(torch.onnx, "export", refuse)


@pytest.mark.slow
def test_both_exporters_lead_to_the_same_kernels(tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text(SPACE)
    parts = load_space(str(tmp_path / "space.yaml")).distinct_parts()
    target = resolve(load_target("host")).for_tvm()

    def kernels():
        models = export.export_parts(parts)
        return {
            part: {(k.name, k.key, k.count) for k in kernels_of(lower(models[part], target), target)} for part in parts
        }

    traced = kernels()
    by_newer_exporter(monkeypatch)
    assert kernels() == traced


@pytest.mark.slow
def test_what_tracing_cannot_export_is_exported_all_the_same_and_quietly(capfd):
    x, level = torch.randn(1, 8, 4), logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = export.export_module(Spectrum().eval(), (x,), ["input"], ["output"])
    (got,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x.numpy()})
    assert torch.allclose(torch.from_numpy(got), Spectrum()(x), atol=1e-4)
    assert capfd.readouterr().err == "" and logging.getLogger("torch.onnx").level == level


def test_equal_weights_of_several_convs_are_weights_of_each():
    convs = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    convs[1].load_state_dict(convs[0].state_dict())
    model = export.export_module(convs, (torch.randn(1, 4, 2, 2),), ["input"], ["output"])
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv"]
    stored = {tensor.name for tensor in model.graph.initializer}
    used = [name for node in model.graph.node for name in node.input[1:]]
    assert len({*used}) == 4 and stored == {*used}
