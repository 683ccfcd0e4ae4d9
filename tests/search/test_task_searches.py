"""A search for another task than classification: its loss, its accuracy and its head, in every part of it."""

import pytest
from test_search_run import TINY, table_of

from tvmfbnet.errors import UserError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.search import search
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.classes import fit_classes
from tvmfbnet.training.config import TrainConfig
from tvmfbnet.training.train import train

SETTINGS = {**TINY, "epochs": 2, "batch_size": 8, "latency_target_ms": 1.0}


def test_a_search_for_masks_ranks_archs_by_their_task(tiny_space_file, tiny_data, tmp_path):
    data = f"fashion_scenes:{tiny_data.partition(':')[2]}?task=segmentation&images=40"
    space = fit_classes(load_space(f"{tiny_space_file}@32"), data)
    config = SearchConfig(**{**SETTINGS, "sandwich": True, "step_paths": 2, "finalists": 2, "finalist_steps": 2})
    result = search(space, data, table_of(space), config, tmp_path / "search")
    assert all(0 <= candidate.accuracy <= 1 for candidate in result.candidates)
    assert "lraspp" in (tmp_path / "search/search.json").read_text()


def test_a_net_of_another_task_is_no_net_to_learn_from(tiny_space_file, tiny_data, tmp_path):
    space, place = load_space(f"{tiny_space_file}@32"), tiny_data.partition(":")[2]
    arch = Arch(tuple(layer.blocks[0] for layer in space.layers))
    quick = TrainConfig(epochs=1, batch_size=10, threads=1, device="cpu")
    net = train(
        arch, space, f"fashion_scenes:{place}?task=classification&images=20", quick, tmp_path / "net"
    ).checkpoint
    data = f"fashion_scenes:{place}?task=multi_label&images=40"
    config = SearchConfig(**{**SETTINGS, "distil_from": str(net)})
    with pytest.raises(UserError, match="was trained for classification, the data set is for multi_label"):
        search(space, data, table_of(space), config, tmp_path / "search")
