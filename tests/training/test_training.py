import json
import re
import signal
import subprocess
import sys
import time
from itertools import groupby

import pytest
import torch

from tvmfbnet.config import validate
from tvmfbnet.data.datasets import FASHION_MNIST_CLASSES, load_data
from tvmfbnet.errors import ArchError, ConfigError, DataError, DivergedError, StorageError
from tvmfbnet.nets.network import build_net
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.training.checkpoint import load_checkpoint
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.forecast import Forecaster
from tvmfbnet.training.train import load_net, train
from tvmfbnet.training.trainer import Trainer

ARCH = "k3_e1/k3_e3,skip"
TINY = {
    "epochs": 4,
    "warmup_epochs": 0.5,
    "batch_size": 16,
    "threads": 1,
    "device": "cpu",
    "checkpoint_steps": 1,
    "dropout": 0.2,
}

CHILD = """
import json
from pathlib import Path
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train
space = load_space({space!r})
train(parse_arch({arch!r}, space), space, {data!r}, TrainConfig(**json.loads({config!r})), Path({out!r}))
"""


@pytest.fixture
def arch(tiny_space):
    return parse_arch(ARCH, tiny_space)


def figures(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_training_learns_and_the_saved_net_gives_the_reported_accuracy(arch, tiny_space, tiny_data, tmp_path):
    config = TrainConfig(**{**TINY, "epochs": 25, "augment_shift": 0, "augment_flip": False, "dropout": 0.0})
    result = train(arch, tiny_space, tiny_data, config, tmp_path)
    assert result.test_accuracy > 0.8, "the class is plain to see in these images"
    net, metadata = load_net(result.checkpoint)
    names = list(FASHION_MNIST_CLASSES)
    assert not net.training and net.arch == arch and net.space == tiny_space
    described = {"arch": ARCH, "data": tiny_data, "class_names": names, "task": "classification"}
    assert metadata == {**described, "test_accuracy": result.test_accuracy}
    data = load_data(tiny_data, 28, 28, 1)
    with torch.no_grad():
        correct = net(data.normalise(data.test.pixels)).argmax(dim=1) == data.test.labels
    assert correct.float().mean().item() == pytest.approx(result.test_accuracy)
    assert figures(json.loads((tmp_path / "history.json").read_text())) == figures(result.history)
    again = train(arch, tiny_space, tiny_data, config, tmp_path)
    assert again == result, "started again when done, it gives the same"


@pytest.mark.parametrize("ema", [0.99, None])
def test_stopped_after_any_step_and_continued_it_ends_bit_equal(arch, tiny_space, tiny_data, tmp_path, ema):
    def make():
        torch.manual_seed(0)  # dropout draws from the global generator
        data = load_data(tiny_data, 28, 28, 1)
        config = TrainConfig(**{**TINY, "ema_decay": ema})
        return Trainer(build_net(arch, tiny_space, config.dropout), data, config)

    def run(trainer, steps):
        while not trainer.finished and trainer.done_steps < steps:
            trainer.advance()
        return trainer

    whole = run(make(), 10**6)
    for stop in (1, 7, 10):
        torch.save(run(make(), stop).state_dict(), tmp_path / "state")
        second = make()
        torch.rand(5)
        second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        run(second, 10**6)
        assert figures(second.history) == figures(whole.history)
        for ours, theirs in ((second.net, whole.net), (second.result_net, whole.result_net)):
            expected = theirs.state_dict()
            assert all(torch.equal(expected[name], tensor) for name, tensor in ours.state_dict().items())


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_it_ends_with_the_same_weights(
    arch, tiny_space, tiny_space_file, tiny_data, tmp_path
):
    config = {**TINY, "epochs": 8}
    whole = train(arch, tiny_space, tiny_data, TrainConfig(**config), tmp_path / "whole")
    out = tmp_path / "killed"
    code = CHILD.format(space=str(tiny_space_file), arch=ARCH, data=tiny_data, config=json.dumps(config), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        wait_for_the_middle_of_an_epoch(out / "train.ckpt", child, steps_per_epoch=7)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert load_checkpoint(out / "train.ckpt", "training")["trainer"]["done_steps"] < 56, "killed before the end"
    assert not (out / "net.pt").exists()
    result = train(arch, tiny_space, tiny_data, TrainConfig(**config), out)
    assert figures(result.history) == figures(whole.history)
    ours, theirs = (load_net(item.checkpoint)[0].state_dict() for item in (result, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def wait_for_the_middle_of_an_epoch(path, child, steps_per_epoch):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if path.exists():
            steps = load_checkpoint(path, "training")["trainer"]["done_steps"]
            if steps > steps_per_epoch and steps % steps_per_epoch:
                return
        time.sleep(0.01)
    pytest.fail("the training never came to the middle of its second epoch")


def test_a_checkpoint_of_another_arch_or_setting_is_refused(arch, tiny_space, tiny_data, tmp_path):
    config = TrainConfig(**{**TINY, "epochs": 1})
    train(arch, tiny_space, tiny_data, config, tmp_path)
    with pytest.raises(StorageError, match=r"arch was k3_e1/k3_e3,skip, now k3_e1/skip,skip"):
        train(parse_arch("k3_e1/skip,skip", tiny_space), tiny_space, tiny_data, config, tmp_path)
    with pytest.raises(StorageError, match=r"lr was 0.2, now 0.1"):
        train(arch, tiny_space, tiny_data, TrainConfig(**{**TINY, "epochs": 1, "lr": 0.1}), tmp_path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn"])
def test_an_unreadable_checkpoint_is_named(arch, tiny_space, tiny_data, tmp_path, content):
    (tmp_path / "train.ckpt").write_bytes(content)
    with pytest.raises(StorageError, match=r"train\.ckpt is not a readable checkpoint"):
        train(arch, tiny_space, tiny_data, TrainConfig(**TINY), tmp_path)
    with pytest.raises(StorageError, match=r"train\.ckpt is not a readable checkpoint"):
        load_net(tmp_path / "train.ckpt")


def test_a_file_of_another_kind_is_no_net(arch, tiny_space, tiny_data, tmp_path):
    train(arch, tiny_space, tiny_data, TrainConfig(**{**TINY, "epochs": 1}), tmp_path)
    with pytest.raises(StorageError, match="not a checkpoint of a net"):
        load_net(tmp_path / "train.ckpt")
    with pytest.raises(StorageError, match=r"cannot read .*absent\.pt"):
        load_net(tmp_path / "absent.pt")


def test_an_output_folder_that_cannot_be_made_is_named(arch, tiny_space, tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create folder"):
        train(arch, tiny_space, tiny_data, TrainConfig(**TINY), tmp_path / "file" / "out")


def test_a_missing_data_set_is_named_before_anything_is_written(arch, tiny_space, tmp_path):
    with pytest.raises(DataError, match="apt install"):
        train(arch, tiny_space, f"fashion_mnist:{tmp_path}", TrainConfig(**TINY), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_arch_of_another_space_is_refused(tiny_space, tiny_data, tmp_path):
    from tvmfbnet.space.arch import Arch

    with pytest.raises(ArchError):
        train(Arch(("k3_e6",)), tiny_space, tiny_data, TrainConfig(**TINY), tmp_path / "out")


def test_nan_stops_the_training_and_keeps_the_last_good_checkpoint(arch, tiny_space, tiny_data, tmp_path):
    with pytest.raises(DivergedError, match="lower lr"):
        config = TrainConfig(**{**TINY, "epochs": 30}).model_copy(update={"lr": 1e30})  # past its bound
        train(arch, tiny_space, tiny_data, config, tmp_path)


def test_settings_are_checked_all_at_once():
    with pytest.raises(ConfigError, match=r"2 problems.*epochs.*lr"):
        validate(TrainConfig, {"epochs": 0, "lr": -1}, "recipe.yaml")


def test_the_result_does_not_depend_on_how_often_checkpoints_are_written(arch, tiny_space, tiny_data, tmp_path):
    nets = []
    for steps in (1, 1000):
        config = TrainConfig(**{**TINY, "epochs": 2, "checkpoint_steps": steps})
        nets.append(load_net(train(arch, tiny_space, tiny_data, config, tmp_path / str(steps)).checkpoint)[0])
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.usefixtures("every_update")
def test_a_training_says_how_long_it_takes_counts_steps_alone_and_is_done_when_started_again(
    arch, tiny_space, tiny_data, tmp_path, capsys
):
    config = TrainConfig(**TINY)
    train(arch, tiny_space, tiny_data, config, tmp_path)
    said = capsys.readouterr().err
    assert len(re.findall(r"^train: about \S+ s \(28 steps x ", said, re.M)) == 1, "4 epochs of 120 // 16"
    counted = re.findall(r"^train: ([0-9]+)/28 ", said, re.M)
    # A slow step is told a second time, as a sign of life.
    assert [count for count, _ in groupby(counted)] == [str(step) for step in range(29)]
    assert "epoch" not in re.sub("(?m)^warning.*", "", said)
    train(arch, tiny_space, tiny_data, config, tmp_path)
    again = capsys.readouterr().err
    assert f"train: all 28 steps in {tmp_path} were done before" in again and "of 28" not in again


def test_a_training_of_days_is_warned_of_with_what_shortens_it():
    forecaster = Forecaster(TrainConfig(), 10_000, tested=100, epochs=90, device="cpu")
    line, warning = forecaster.step(9.0)
    assert line == "train: about 1 day 8 h (10,000 steps x 9 s, and tests)"
    assert all(part in warning for part in ("more than a day", "--device cuda", "fewer epochs (it is 90)", "@96"))
    assert forecaster.step(9.0) == [], "once"
    quick = Forecaster(TrainConfig(), 1000, tested=0, epochs=90, device="cpu")
    assert [quick.step(seconds) for seconds in (3.0, 0.1, 0.1, 0.2)] == [[]] * 4, "the first step also allocates"
    assert quick.step(0.1) == ["train: about 2 min (1,000 steps x 0.1 s, and tests)"]


def test_a_net_no_better_than_chance_is_told(arch, tiny_space, tiny_data, tmp_path, capsys):
    config = TrainConfig(**{**TINY, "epochs": 1, "lr": 1e-9, "warmup_epochs": 0})
    train(arch, tiny_space, tiny_data, config, tmp_path)
    assert "warning: the net learned nothing: its test accuracy of" in capsys.readouterr().err
