"""A training for every task ends with the task's accuracy, a net that knows its task, and the same result when resumed."""

import pytest
import torch
from test_datasets import fashion

from tvmfbnet.data.scene_options import OUTPUTS
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.search import search
from tvmfbnet.space.arch import Arch
from tvmfbnet.tasks import TASK_NAMES, head_of, task_named
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import load_net, train

SETTINGS = {"epochs": 2, "batch_size": 10, "lr": 0.05, "threads": 1, "device": "cpu", "checkpoint_steps": 1}


def fitted(space_file, tmp_path, task):
    from tvmfbnet.space.registry import load_space

    data = f"fashion_scenes:{fashion(tmp_path / 'fashion')}?task={task}&images=20"
    return fit_classes(load_space(f"{space_file}@32"), data), data


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_training_ends_with_the_accuracy_of_its_task_and_resumes(task, tiny_space_file, tmp_path, monkeypatch):
    space, data = fitted(tiny_space_file, tmp_path, task)
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


def test_a_search_for_masks_ranks_archs_by_their_task(tiny_space_file, tmp_path, capsys):
    from test_search_run import TINY, table_of

    space, data = fitted(tiny_space_file, tmp_path, "segmentation")
    config = SearchConfig(**{**TINY, "epochs": 2, "batch_size": 8, "sandwich": True, "step_paths": 2})
    result = search(space, data, table_of(space), config, tmp_path / "search")
    assert all(0 <= candidate.accuracy <= 1 for candidate in result.candidates)
    assert "lraspp" in (tmp_path / "search/search.json").read_text()
