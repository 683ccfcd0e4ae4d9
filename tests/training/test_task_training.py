"""A training for every task ends with the task's accuracy and a net that knows its task, also when it is resumed."""

import pytest
import torch
from torch import nn

from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.scene_options import OUTPUTS
from tvmfbnet.errors import UserError
from tvmfbnet.nets.network import build_net
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.tasks import TASK_NAMES, head_of, task_named
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.distillation import Distillation
from tvmfbnet.training.train import load_net, train
from tvmfbnet.training.trainer import Trainer

SETTINGS = {"epochs": 2, "batch_size": 10, "lr": 0.05, "threads": 1, "device": "cpu", "checkpoint_steps": 1}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_training_ends_with_the_accuracy_of_its_task_and_resumes(
    task, tiny_space_file, tiny_data, tmp_path, monkeypatch
):
    data = f"fashion_scenes:{tiny_data.partition(':')[2]}?task={task}&images=20"
    space = fit_classes(load_space(f"{tiny_space_file}@32"), data)
    assert space.head_kind == head_of(task) and space.classes == OUTPUTS[task]
    arch, config = Arch(tuple(layer.blocks[0] for layer in space.layers)), TrainConfig(**SETTINGS)
    result = train(arch, space, data, config, tmp_path / "whole")
    assert result.metric == task_named(task).metric and 0 <= result.test_accuracy <= 1
    net, about = load_net(result.checkpoint)
    assert about["task"] == task and len(about["class_names"]) == space.classes
    kind, count = type(task_named(task)), iter(range(3))

    def interrupted(self, *arguments, real=kind.loss):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(arch, space, data, config, tmp_path / "killed")
    again, _ = load_net(train(arch, space, data, config, tmp_path / "killed").checkpoint)
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), again.parameters(), strict=True))


def test_detection_distils_and_trains_in_parts_in_bfloat16_with_a_moving_average(tiny_space_file, tiny_data, tmp_path):
    data = f"fashion_scenes:{tiny_data.partition(':')[2]}?task=detection&images=20"
    space = fit_classes(load_space(f"{tiny_space_file}@32"), data)
    arch = Arch(tuple(layer.blocks[0] for layer in space.layers))
    first = train(arch, space, data, TrainConfig(**SETTINGS), tmp_path / "first")
    options = {"accumulate": 2, "ema_decay": 0.9, "precision": "bfloat16", "label_smoothing": 0.1}
    alone = train(arch, space, data, TrainConfig(**SETTINGS, **options), tmp_path / "alone")
    distilled = TrainConfig(**SETTINGS, **options, distil_from=str(first.checkpoint), distil_weight=0.9)
    learned = train(arch, space, data, distilled, tmp_path / "learned")
    assert 0 <= learned.test_accuracy <= 1
    assert learned.history[0]["train_loss"] != alone.history[0]["train_loss"] != first.history[0]["train_loss"]
    coarser = Distillation(nn.Sequential(nn.Flatten(), nn.Linear(1024, 12)), 0.5, 2.0, "float32", "detection")
    with pytest.raises(UserError, match="distil_from: that net's outputs are 12 for an image, this net's 9x12"):
        coarser.loss(torch.tensor(1.0), torch.zeros(2, 9, 12), torch.zeros(2, 1, 32, 32))


def test_rand_augment_is_for_several_labels_too(tiny_space_file, tiny_data):
    data = load_data(f"fashion_scenes:{tiny_data.partition(':')[2]}?task=multi_label&images=20", 32, 32, 1, 10)
    space = load_space(f"{tiny_space_file}@32")
    net = build_net(Arch(tuple(layer.blocks[0] for layer in space.layers)), space)
    trainer = Trainer(net, data, TrainConfig(**SETTINGS, rand_augment=2))
    trainer.advance()
    assert trainer.done_steps == 1


@pytest.mark.parametrize("setting", [{"mixup": 0.2}, {"cutmix": 1.0}, {"rand_augment": 2}])
def test_what_mixes_classes_or_moves_images_is_refused_for_places(setting, tiny_space_file, tiny_data, tmp_path):
    data = f"fashion_scenes:{tiny_data.partition(':')[2]}?task=regression&images=20"
    space = fit_classes(load_space(f"{tiny_space_file}@32"), data)
    arch = Arch(tuple(layer.blocks[0] for layer in space.layers))
    (name,) = setting
    with pytest.raises(UserError, match=f"{name}: for classification.*; the task of this data set is regression$"):
        train(arch, space, data, TrainConfig(**SETTINGS, **setting), tmp_path / "out")
