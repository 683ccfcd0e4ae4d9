"""Own colour images of three classes to a compiled, measured net, through the command line and with no space file."""

import json
import re

import pytest
from newcomer import TARGET, make_photos, tvmfbnet

NAMES = ["cat", "dog", "golden retriever"]  # in the order of a file manager, and of the outputs


@pytest.mark.rpc
@pytest.mark.slow
def test_own_images_become_a_compiled_and_measured_net_without_a_space_file(tmp_path):
    make_photos(tmp_path / "my photos", NAMES, train=40, val=10)
    (tmp_path / "mine.yaml").write_text(TARGET)
    data, space = ["--data", "imagefolder:my photos"], ["--space", "fbnet_mini@32,channels=3"]
    target = ["--target", "mine.yaml"]

    # Tuned before anybody thought of the number of classes; the blocks that are left out are predicted.
    tvmfbnet(tmp_path, "tune", *target, *space, "--trials", "1", "--batch", "1", "--blocks", "k3_e1")

    quick = ["--epochs", "2", "--batch-size", "16", "--threads", "1", "--device", "cpu"]
    done = tvmfbnet(
        *(tmp_path, "search", *target, *space, *data, "--latency-target", "60%", "--out", "found"),
        *(*quick, "--warmup-epochs", "1", "--json"),
    )
    assert "my photos has 3 classes" in done.stderr and "append `,classes=3` to the space" in done.stderr
    assert re.search("search: (about|less than a minute)", done.stderr)
    assert "warning: theta learns and archs are compared on few" in done.stderr
    result = json.loads(done.stdout)
    assert result["notices"] and result["predicted_ms"] > 0

    done = tvmfbnet(tmp_path, "train", result["arch"], *space, *data, "--out", "trained", *quick, "--json")
    assert 0 <= json.loads(done.stdout)["test_accuracy"] <= 1 and "train: about " in done.stderr

    trained = ["--checkpoint", "trained/net.pt", "--out", "package"]
    done = tvmfbnet(tmp_path, "compile", result["arch"], *space, *target, *trained, "--json")
    packed = json.loads(done.stdout)
    assert packed["parity"] == "passed" and packed["latency_ms"] > 0 and packed["class_names"] == NAMES
    described = json.loads((tmp_path / "package/package.json").read_text())
    assert described["class_names"] == NAMES and described["input_shape"] == [1, 3, 32, 32]

    done = tvmfbnet(tmp_path, "bench", "package", *target, "--latency-target", "1000ms", "--json")
    assert json.loads(done.stdout)["verdict"] == "met"
