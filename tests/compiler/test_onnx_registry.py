"""Exports of one process share the exporter's library of operators, and give what they give without."""

from contextlib import nullcontext

from torch.onnx._internal.exporter._registration import ONNXRegistry

from tvmfbnet.compiler import export
from tvmfbnet.compiler.onnx_registry import one_registry


def test_exports_share_a_registry_which_changes_none_of_them_and_is_gone_afterwards(tiny_space, monkeypatch):
    stock = vars(ONNXRegistry)["from_torchlib"]
    with one_registry():
        first = ONNXRegistry().from_torchlib(opset_version=18)
    with one_registry():
        assert ONNXRegistry.from_torchlib(opset_version=18) is first
        assert ONNXRegistry.from_torchlib(opset_version=20) is not first
    assert vars(ONNXRegistry)["from_torchlib"] is stock

    parts = tiny_space.distinct_parts()[:3]
    shared = [export.export_parts(parts) for _ in range(2)]
    monkeypatch.setattr(export, "one_registry", nullcontext)
    alone = export.export_parts(parts)
    for part in parts:
        assert {models[part].SerializeToString(deterministic=True) for models in (*shared, alone)} == {
            alone[part].SerializeToString(deterministic=True)
        }
