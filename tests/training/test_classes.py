"""Own images of another number of classes need no space file: the data's classes win, and other commands can say so."""

import json

import pytest
import torch
from forked import run_command
from PIL import Image

from tvmfbnet.data.datasets import CIFAR10_CLASSES, load_data
from tvmfbnet.data.places import classes_of
from tvmfbnet.deploy.description import read_description
from tvmfbnet.errors import DataError, UserError
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train


@pytest.fixture
def photos(tmp_path):
    """A folder of three classes of colour images."""
    for part, count in (("train", 8), ("val", 4)):
        for shade, name in enumerate(("cat", "dog", "big bird")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (48, 40), (80 * shade, 10 * index, 30)).save(folder / f"{index}.jpg")
    return tmp_path / "photos"


def test_the_classes_of_the_data_win_but_for_a_subset(photos, capsys):
    space = load_space("fbnet")
    assert fit_classes(space, f"imagefolder:{photos}").classes == 3
    assert "append `,classes=3` to the space" in capsys.readouterr().err
    assert fit_classes(space, f"imagefolder:{photos}?classes=2") is space
    assert classes_of("cifar10") == 10
    with pytest.raises(DataError, match="unknown data set"):
        classes_of("imagenet")


def test_classes_and_channels_stand_behind_a_space(tmp_path):
    assert load_space("fbnet,classes=3").classes == 3
    changed = load_space("fbnet@64x48,classes=3,channels=1")
    assert (changed.height, changed.width, changed.classes, changed.input_channels) == (64, 48, 3, 1)
    assert changed.name == "fbnet@64x48,classes=3,channels=1"
    for wrong in (
        "fbnet,classes=three",
        "fbnet,classes=3,classes=4",
        "fbnet,classes=",
        "fbnet,sizes=3",
        "fbnet,classes=0",
    ):
        with pytest.raises(UserError):
            load_space(wrong)
    odd = tmp_path / "a,b@c"
    odd.mkdir()
    (odd / "mine.yaml").write_text(
        "input: {channels: 1, height: 28, width: 28}\nclasses: 10\nstem: {channels: 4}\n"
        "stages: [{channels: 4, layers: 1}]\nlast_channels: 8\n"
    )
    assert load_space(f"{odd / 'mine.yaml'}@32,classes=5").classes == 5


def tvmfbnet(*words):
    return run_command(words)


@pytest.mark.slow
def test_own_photos_become_a_trained_net_without_a_space_file(photos, tmp_path):
    config = tmp_path / "quick.yaml"
    config.write_text("{epochs: 1, batch_size: 8, device: cpu, threads: 1}")
    words = ["--space", "fbnet_mini,channels=3", "--data", f"imagefolder:{photos}", "--config", config]
    arch = "k3_e1,skip/k3_e1,k3_e1,skip/k3_e1,skip"
    done = tvmfbnet("train", arch, *words, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    checkpoint = json.loads(done.stdout)["checkpoint"]
    compile_it = ["compile", arch, "--target", "host", "--checkpoint", checkpoint, "--build-only"]
    done = tvmfbnet(*compile_it, "--space", "fbnet_mini,channels=3,classes=5", "--out", tmp_path / "package")
    assert done.returncode == 2 and "append `,classes=3` to the space" in done.stderr
    done = tvmfbnet(*compile_it, "--space", "fbnet_mini,channels=3", "--out", tmp_path / "package")
    assert done.returncode == 0, done.stderr
    assert "has 3 classes; its space is fbnet_mini,channels=3,classes=3" in done.stderr
    assert "outputs, in order: big bird, cat, dog" in done.stdout
    assert read_description(tmp_path / "package").class_names == ("big bird", "cat", "dog")


def test_a_net_trained_on_some_of_the_classes_has_their_outputs_by_name(photos, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("dog\r\nbig bird\r\n", encoding="utf-8-sig")
    space, data = load_space("fbnet_mini@16,channels=3,classes=3"), f"imagefolder:{photos}?classes={tmp_path}/mine.txt"
    config = TrainConfig(epochs=1, batch_size=8, device="cpu", threads=1)
    arch = parse_arch("k3_e1,skip/k3_e1,skip,skip/k3_e1,skip", space)
    result = train(arch, space, data, config, tmp_path / "run")
    net, about = load_net(result.checkpoint)
    assert about["class_names"] == ["big bird", "dog"], "in the order of the names, whatever the file's order"
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 2) and net.space.classes == 2
    assert "so the net gets 2 outputs, in the order of their names" in capsys.readouterr().err


def test_shipped_data_sets_name_their_classes(tiny_data):
    names = load_data(tiny_data, 28, 28, 1).class_names
    assert len(set(names)) == 10 and (names[0], names[9]) == ("T-shirt/top", "Ankle boot")
    assert len(set(CIFAR10_CLASSES)) == 10 and CIFAR10_CLASSES[2] == "bird"
