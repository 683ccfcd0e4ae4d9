"""Several processes go through the same search as one process with the same batches."""

import json
from pathlib import Path

import pytest
import torch
from together import run_together

from tvmfbnet.data.augment import Augment
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.loader import Loader
from tvmfbnet.errors import DataError
from tvmfbnet.training.checkpoint import load_checkpoint

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_search_run import TINY, table_of
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.search import search
from tvmfbnet.space.registry import load_space
space = load_space({space!r})
settings = dict(TINY, epochs=3, theta_batch_size=8, weight_steps="two_path", stop_on_collapse=False)
settings.update(finalists=5, finalist_steps=3, target_tolerance=0.3)
config = SearchConfig(**settings, latency_target_ms=0.09)
search(space, {data!r}, table_of(space), config, Path({out!r}))
"""


@pytest.mark.slow
def test_two_processes_learn_the_theta_of_one(tiny_space_file, tiny_data, tmp_path):
    states, finalists = [], []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        values = {"space": str(tiny_space_file), "data": tiny_data, "out": str(out)}
        run_together(PROGRAM.format(folder=str(Path(__file__).parent), **values), processes, tmp_path)
        states.append(load_checkpoint(out / "search.ckpt", "search")["searcher"])
        finalists.append(json.loads((out / "finalists.json").read_text())["accuracies"])
    one, two = states
    assert one["supernet"]["theta"].abs().max() > 0.015
    for name, tensor in one["supernet"].items():
        torch.testing.assert_close(
            tensor, two["supernet"][name], rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert [len(trained) for trained in finalists] == [5, 5], "two trainings at a time, the last one alone"
    both = set(finalists[0]) & set(finalists[1])
    assert both and all(finalists[0][arch] == finalists[1][arch] for arch in both), "each is trained by one process"
    assert one["history"][-1]["weight_loss"] == pytest.approx(two["history"][-1]["weight_loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_rank_random_archs_as_one_does(tiny_space_file, tiny_data, tmp_path):
    for processes in (1, 2):
        values = {"space": str(tiny_space_file), "data": tiny_data, "out": str(tmp_path / str(processes))}
        program = PROGRAM.format(folder=str(Path(__file__).parent), **values)
        run_together(program.replace("finalists=5", 'strategy="random", finalists=0'), processes, tmp_path)
    one, two = ((tmp_path / name / "archs.json").read_text() for name in ("1", "2"))
    assert one == two and len(json.loads(one)) > 3


def test_the_parts_of_a_batch_are_the_batch(tiny_data):
    data, augment = load_data(tiny_data, 28, 28, 1), Augment(shift=3, flip=True, colour=0.4, trivial=True, erase=0.5)
    loaders = [Loader(data, data.train, torch.arange(100), 12, augment, 5, part) for part in ((0, 1), (0, 2), (1, 2))]
    for _ in range(10):
        (pixels, labels), *parts = [loader.next() for loader in loaders]
        assert torch.equal(torch.cat([part[0] for part in parts]), pixels)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_a_batch_that_does_not_divide_is_refused(tiny_data):
    data = load_data(tiny_data, 28, 28, 1)
    with pytest.raises(DataError, match="3 processes cannot divide a batch of 16"):
        Loader(data, data.train, torch.arange(100), 16, Augment(), 5, (0, 3))
