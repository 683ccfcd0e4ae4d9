"""A net as a backbone equals timm's, and its files give what it gives."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch

import tvmfbnet as tf
from tvmfbnet.errors import ArchError, UserError
from tvmfbnet.nets.bn_folding import randomise_bn
from tvmfbnet.nets.features import FeatureNet
from tvmfbnet.nets.timm_weights import from_timm

SMALL = "k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3"


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(features_only=False, **more):
    net = tf.build_network(SMALL, "fbnet_mini", features_only=features_only, **more).eval()
    randomise_bn(net, seed=1)
    return net


def test_fbnet_c_has_timms_feature_info_and_gives_its_feature_maps():
    theirs = timm.create_model("fbnetc_100", pretrained=False).eval()
    randomise_bn(theirs, seed=1)
    backbone = timm.create_model("fbnetc_100", pretrained=False, features_only=True).eval()
    backbone.load_state_dict(theirs.state_dict(), strict=False)
    net = tf.build_network("fbnet_c")
    net.load_state_dict(from_timm(theirs.state_dict(), net))
    ours = FeatureNet(net).eval()
    assert ours.feature_info.channels() == backbone.feature_info.channels() == [16, 24, 32, 112, 352]
    assert ours.feature_info.reduction() == backbone.feature_info.reduction() == [2, 4, 8, 16, 32]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pairs = list(zip(ours(x), backbone(x), strict=True))
    for index, (mine, other) in enumerate(pairs):
        assert mine.shape == other.shape == (1, ours.feature_info.channels()[index], 32 >> index, 32 >> index)
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_feature_maps_are_chosen_by_index_and_no_layer_behind_the_last_is_kept():
    net = small(features_only=True, out_indices=(-2, 0))
    assert net.feature_info.channels() == [16, 32] and net.feature_info.reduction() == [2, 4]
    assert [tuple(feature.shape) for feature in net(torch.zeros(1, 1, 32, 32))] == [(1, 16, 16, 16), (1, 32, 8, 8)]
    assert len(net.layers) == 5
    for wrong in ((3,), (-4,), ()):
        with pytest.raises(UserError, match="feature maps 0 to 2"):
            tf.build_network(SMALL, "fbnet_mini", features_only=True, out_indices=wrong)
    with pytest.raises(UserError, match="add features_only"):
        tf.build_network(SMALL, "fbnet_mini", out_indices=(0,))


@pytest.mark.parametrize("features_only", [False, True])
def test_a_program_of_torch_export_gives_the_nets_outputs_for_any_batch(features_only, tmp_path):
    net = small(features_only)
    tf.export_network(net, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    x = torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program(x), net(x), rtol=1e-5, atol=1e-5)


def test_an_onnx_backbone_gives_the_nets_feature_maps(tmp_path):
    net = small(features_only=True)
    tf.export_network(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["feature0", "feature1", "feature2"]
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(net(x), session.run(None, {"input": x.numpy()}), strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4)


def test_timm_loads_the_weights_file_of_a_whole_net(tmp_path):
    net = tf.build_network("fbnet_c").eval()
    tf.export_network(net, tmp_path / "net.safetensors")
    theirs = timm.create_model("fbnetc_100", checkpoint_path=str(tmp_path / "net.safetensors")).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="no weights of its own"):
        tf.export_network(FeatureNet(net), tmp_path / "backbone.safetensors")


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is written as \.onnx \(ONNX\), \.pt2"):
        tf.export_network(small(), tmp_path / "net.pth")
    with pytest.raises(UserError, match="not Linear"):
        tf.export_network(torch.nn.Linear(1, 1), tmp_path / "net.onnx")
    with pytest.raises(ArchError):
        tf.build_network("k3_e1", "fbnet_mini")
