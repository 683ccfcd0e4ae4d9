"""A training for every task ends with the task's accuracy and a net that knows its task, also when it is resumed."""

import pytest
import torch

from tvmfbnet.data.scene_options import OUTPUTS
from tvmfbnet.errors import UserError
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.tasks import TASK_NAMES, head_of, task_named
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train

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


@pytest.mark.parametrize("setting", [{"mixup": 0.2}, {"cutmix": 1.0}, {"rand_augment": 2}, {"distil_from": "net.pt"}])
def test_what_needs_one_class_for_each_image_is_refused_for_other_tasks(setting, tiny_space_file, tiny_data, tmp_path):
    data = f"fashion_scenes:{tiny_data.partition(':')[2]}?task=regression&images=20"
    space = fit_classes(load_space(f"{tiny_space_file}@32"), data)
    arch = Arch(tuple(layer.blocks[0] for layer in space.layers))
    (tmp_path / "net.pt").write_bytes(b"")
    if "distil_from" in setting:
        setting = {"distil_from": str(tmp_path / "net.pt")}
    (name,) = setting
    with pytest.raises(UserError, match=f"{name}: for classification; the task of this data set is regression"):
        train(arch, space, data, TrainConfig(**SETTINGS, **setting), tmp_path / "out")
