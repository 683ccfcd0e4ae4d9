"""A search that learned nothing says so: near-uniform theta, few images to judge by, an accuracy at chance."""

import json
import math

import pytest
import torch
from test_health import COSTS, logs_of
from test_search_run import TINY, table_of

from tvmfbnet.run_files import read_run_file
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.health import health_of
from tvmfbnet.search.notices import entropy_of_a_favourite, few_images, layers_without_favourite, notices_of
from tvmfbnet.search.search import read_result, search
from tvmfbnet.tasks import task_named
from tvmfbnet.tasks.chance import Chance

CONFIG = SearchConfig(epochs=12, train_images=2000)
MANY = Chance(0.1, 1000)


def kinds(*rows, space, accuracy=0.5, chance=MANY):
    return [
        notice.kind for notice in notices_of(health_of(logs_of(*rows), space, COSTS), space, accuracy, chance, CONFIG)
    ]


def test_a_layer_has_a_favourite_from_twice_the_probability_of_the_others_on(tiny_space):
    assert entropy_of_a_favourite(9) / math.log(9) == pytest.approx(0.985, abs=5e-4), "what the docs say"
    even, just, clear = [0.25] * 4, [0.39, 0.61 / 3, 0.61 / 3, 0.61 / 3], [0.41, 0.59 / 3, 0.59 / 3, 0.59 / 3]
    entropies = [-sum(p * math.log(p) for p in row) for row in (even, just, clear)]
    assert layers_without_favourite(entropies, tiny_space) == (2, 3)


def test_theta_near_uniform_is_told_where_most_layers_have_no_favourite(tiny_space):
    even, sure = [0.25] * 4, [0.7, 0.1, 0.1, 0.1]
    assert kinds(even, even, sure, space=tiny_space) == ["uniform_theta"]
    assert kinds(even, sure, sure, space=tiny_space) == []


def test_an_accuracy_at_chance_is_told_by_what_the_most_frequent_class_gives(tiny_space):
    sure = [[0.7, 0.1, 0.1, 0.1]] * 3
    assert kinds(*sure, space=tiny_space, accuracy=0.11) == ["chance_accuracy"]
    assert kinds(*sure, space=tiny_space, accuracy=0.14) == []
    labels = torch.tensor([0] * 900 + [1] * 100)
    chance = task_named("classification").chance(labels)
    assert kinds(*sure, space=tiny_space, accuracy=0.9, chance=chance) == ["chance_accuracy"]
    assert kinds(*sure, space=tiny_space, accuracy=None) == []


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({}, "add images, or lower weight_share"),
        ({"train_images": 120}, "raise train_images"),
        ({"validation_images": 24}, "raise validation_images"),
    ],
)
def test_few_images_name_the_setting_that_makes_them_more(settings, cure):
    notice = few_images(24, SearchConfig(**settings))
    assert notice.kind == "few_images" and cure in notice.text and "uncertain by 10 percentage points" in notice.text
    assert few_images(100, SearchConfig(**settings)) is None


def test_a_search_that_learned_nothing_says_so_once_each_in_all_its_places(tiny_space, tiny_data, tmp_path, capsys):
    result = search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY), tmp_path / "search")
    said = capsys.readouterr().err
    told = [notice.kind for notice in result.notices]
    assert told[:2] == ["few_images", "uniform_theta"]  # 24 images, and six steps of theta
    for notice in result.notices:
        assert said.count(f"warning: {notice.text}") == 1
    assert said.index("few images") < said.index("near uniform"), "what is known at the start is said there"
    assert json.loads((tmp_path / "search/search.json").read_text())["notices"] == [n.to_dict() for n in result.notices]
    assert read_run_file(tmp_path, "search/search.json")["notices"][0]["kind"] == "few_images"
    assert read_result(tmp_path)[1]["notices"][1]["kind"] == "uniform_theta"


def test_a_theta_that_learned_something_is_not_called_uniform(tiny_space, tiny_data, tmp_path, capsys):
    config = SearchConfig(**{**TINY, "epochs": 30, "warmup_epochs": 20, "theta_lr": 0.5, "stop_on_collapse": False})
    result = search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path)
    assert "uniform_theta" not in [notice.kind for notice in result.notices], result.notices
    assert "near uniform" not in capsys.readouterr().err
