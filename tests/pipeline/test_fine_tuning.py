"""Fine-tuning in int8: resumable bit for bit, judged on held-out images, and kept only where these get better."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import typer

from tvmfbnet.cli.main import app
from tvmfbnet.cli.run import _dtype_rows
from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.held_out import with_held_out
from tvmfbnet.errors import ConfigError, StorageError, UserError
from tvmfbnet.pipeline.fine_tuning import MODEL, RECORD, fine_tune_quantised, fine_tuned_model
from tvmfbnet.pipeline.recipe import Recipe
from tvmfbnet.pipeline.run import Run
from tvmfbnet.quantisation.config import QuantisationConfig
from tvmfbnet.quantisation.reference import QuantisedReference
from tvmfbnet.report.run_data import read_run
from tvmfbnet.report.summary import net_rows
from tvmfbnet.run_files import FineTuningRecord
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.targets.definition import load_target
from tvmfbnet.training import train as train_module
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train

ARCH = "k3_e1/k3_e3,skip"
TRAINING = TrainConfig(epochs=2, batch_size=16, augment_shift=0, augment_flip=False, threads=1, checkpoint_steps=2)


@pytest.fixture(scope="module")
def host():
    return load_target("host,dtype=int8")


@pytest.fixture
def checkpoint(tiny_space, tiny_data, tmp_path):
    return train(parse_arch(ARCH, tiny_space), tiny_space, tiny_data, TRAINING, tmp_path / "train").checkpoint


def tensors(folder):
    model = onnx.load(str(folder / MODEL))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


class StoppedError(Exception):
    """In place of a kill."""


def test_stopped_and_resumed_it_ends_bit_equal_and_a_net_that_learns_is_kept(
    checkpoint, tiny_data, host, tmp_path, monkeypatch, capsys
):
    net, _ = load_net(checkpoint)
    config = QuantisationConfig(fine_tune_epochs=8, fine_tune_lr=0.1)
    whole = fine_tune_quantised(net, tiny_data, host, config, TRAINING, tmp_path / "whole")
    saved = []

    def save(*arguments):
        real(*arguments)
        saved.append(arguments)
        if len(saved) == 5:
            raise StoppedError

    real = train_module.save_checkpoint
    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(train_module, "save_checkpoint", save)
        fine_tune_quantised(net, tiny_data, host, config, TRAINING, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / RECORD).exists()
    assert fine_tune_quantised(net, tiny_data, host, config, TRAINING, tmp_path / "stopped") == whole
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    told = capsys.readouterr().err
    assert "fine-tune: about" in told and "fine-tune: resuming" in told and f"fine-tuning: {whole.describe()}" in told

    # The net was trained for too short a time, so training on makes it better.
    assert whole.kept and whole.accuracy > whole.untuned_accuracy and whole.images == 12
    divided = with_held_out(load_data(tiny_data, 28, 28, 1), TRAINING.seed)
    reference = QuantisedReference(fine_tuned_model(whole, tmp_path / "whole"))
    images = divided.normalise(divided.test.load(torch.arange(12), Augment(), None)).numpy()
    right = np.array([reference.run(image[None]).argmax() for image in images]) == divided.test.labels.numpy()
    assert right.mean() == pytest.approx(whole.accuracy)


def test_a_net_that_gets_no_better_is_not_kept_and_other_settings_need_another_folder(
    checkpoint, tiny_data, host, tmp_path
):
    net, _ = load_net(checkpoint)
    config = QuantisationConfig(fine_tune_epochs=1, fine_tune_lr=1e-12)
    record = fine_tune_quantised(net, tiny_data, host, config, TRAINING, tmp_path / "tuned")
    assert record.accuracy == record.untuned_accuracy and not record.kept
    assert fine_tuned_model(record, tmp_path / "tuned") is None and "not better, not kept" in record.describe()
    more = QuantisationConfig(fine_tune_epochs=2, fine_tune_lr=1e-12)
    with pytest.raises(StorageError, match=r"fine_tune_epochs was 1, now 2\): use another --out, or remove it"):
        fine_tune_quantised(net, tiny_data, host, more, TRAINING, tmp_path / "tuned")
    with torch.no_grad():
        net.head_linear.bias[0] += 1
    with pytest.raises(StorageError, match=r"weights was \w+, now \w+"):
        fine_tune_quantised(net, tiny_data, host, config, TRAINING, tmp_path / "tuned")
    kept = record.model_copy(update={"kept": True})
    (tmp_path / "tuned" / MODEL).unlink()
    with pytest.raises(StorageError, match=r"net\.onnx"):
        fine_tuned_model(kept, tmp_path / "tuned")


def test_compile_fine_tunes_a_checkpoint_beside_the_package(checkpoint, tiny_space_file, tmp_path, capsys):
    words = ["compile", ARCH, "--space", str(tiny_space_file), "--target", "host", "--out", str(tmp_path / "package")]
    words += ["--build-only", "--tuning-logs", str(tmp_path / "logs"), "--checkpoint", str(checkpoint)]
    app(args=[*words, "--dtype", "int8", "--fine-tune-epochs", "1", "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)["fine_tuning"]
    package, tuned = (
        json.loads((tmp_path / "package/package.json").read_text()),
        tmp_path / "package-fine_tuning" / MODEL,
    )
    assert package["fine_tuning"] == shown == json.loads((tmp_path / "package-fine_tuning" / RECORD).read_text())
    assert not shown["kept"] and (tmp_path / "package/net.onnx").read_bytes() != tuned.read_bytes()
    assert sorted(file.name for file in (tmp_path / "package").iterdir()) == ["net.onnx", "net.so", "package.json"]
    with pytest.raises(UserError) as caught:
        app(args=[*words, "--fine-tune-epochs", "1"], standalone_mode=False)
    assert str(caught.value) == (
        "fine_tune_epochs is 1, and target host computes in float32, which needs no fine-tuning: leave it out, or take "
        "dtype int8"
    )


def test_what_cannot_be_fine_tuned_is_refused_before_anything_is_spent(tiny_space_file, tiny_data, tmp_path):
    recipe = {
        **{"description": "half", "target": "host", "dtype": "float16", "space": str(tiny_space_file), "search": {}},
        **{"data": tiny_data, "train": {}, "quantisation": {"fine_tune_epochs": 3}},
    }
    with pytest.raises(UserError, match="fine_tune_epochs is 3, and target host computes in float16"):
        Run(Recipe.model_validate(recipe), tmp_path / "run")
    with pytest.raises(UserError, match="fine_tune_epochs is 3, and fine-tuning rounds the whole net"):
        Run(Recipe.model_validate({**recipe, "dtype": "mixed"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    words = ["compile", ARCH, "--space", str(tiny_space_file), "--target", "host", "--out", str(tmp_path / "package")]
    with pytest.raises(ConfigError, match="fine_tune_epochs needs trained weights: give their checkpoint"):
        app(args=[*words, "--dtype", "int8", "--fine-tune-epochs", "1"], standalone_mode=False)
    with pytest.raises(typer.BadParameter, match="less than or equal to 100000"):
        app(args=[*words, "--checkpoint", "net.pt", "--fine-tune-epochs", "1000000"], standalone_mode=False)


def test_a_run_and_its_report_say_what_was_kept(tmp_path):
    record = FineTuningRecord(epochs=2, images=5000, accuracy=0.9012, untuned_accuracy=0.8996, kept=True)
    told = "90.12% after 2 epochs instead of 89.96% on 5000 held-out training images: kept"
    assert _dtype_rows({"dtype": "int8", "fine_tuning": record.model_dump()})[-1] == ("fine-tuning", told)
    assert _dtype_rows({"dtype": "int8", "fine_tuning": None}) == [("dtype", "int8")]
    (tmp_path / "recipe.yaml").write_text("{}")
    run = read_run(tmp_path)
    shown = [dict(net_rows(replace(run, result={"fine_tuning": item}))) for item in (record.model_dump(), None)]
    assert shown[0]["Fine-tuning in the dtype"] == told and "Fine-tuning in the dtype" not in shown[1]


@pytest.mark.parametrize("values", [{"fine_tune_epochs": -1}, {"fine_tune_epochs": 10**6}, {"fine_tune_lr": 0}])
def test_numbers_out_of_bounds_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        QuantisationConfig(**values)
