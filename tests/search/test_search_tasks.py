"""The tasks that searches are judged on: whole files, and trainings that count for their own settings alone."""

import argparse
import importlib
import statistics
import sys
from pathlib import Path

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.files import read_json, write_json
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.registry import load_space

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_modules():
    """The modules that benchmarks of the search share."""
    names = ("searching", "search_tasks")
    sys.path.insert(0, str(BENCHMARKS))
    yield [importlib.import_module(name) for name in names]
    sys.path.remove(str(BENCHMARKS))
    for name in names:
        del sys.modules[name]


@pytest.fixture
def searching(benchmark_modules):
    return benchmark_modules[0]


@pytest.fixture
def tasks(benchmark_modules, tmp_path, monkeypatch):
    """The module, with a task of a tiny training in a folder of its own."""
    module = benchmark_modules[1]
    text = (module.FOLDER / "cluttered.yaml").read_text().replace("epochs: 8", "epochs: 9")
    (tmp_path / "mine.yaml").write_text(text)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def arguments(searching, *words):
    parser = searching.options("", "out")
    searching.window_options(parser)
    return parser.parse_args(words)


def test_a_task_says_what_the_command_line_does_not(searching):
    given = arguments(searching, "--share", "0.2", "--task", "cluttered")
    assert (given.space, given.share, given.width) == ("fbnet_mini@32", 0.2, 0.05)
    assert given.latency_table.startswith("simulated:") and given.train["epochs"] == 8
    assert arguments(searching, "--task", "cluttered", "--space", "fbnet_mini").space == "fbnet_mini"


def test_a_task_with_a_wrong_name_is_refused(searching):
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        arguments(searching, "--task", "nowhere")


def test_the_archs_of_the_task_differ_by_three_times_the_noise(searching, benchmark_modules):
    given = arguments(searching, "--task", "cluttered")
    space, table = searching.space_and_table(given)
    costs = latency_costs(table, space)
    rows = read_json(benchmark_modules[1].trainings_file("cluttered"))["trainings"]
    accuracies = {(row["arch"], row["seed"]): row["test_accuracy"] for row in rows}
    high = costs.least + given.share * (costs.most - costs.least)
    archs = searching.archs_between(space, costs, (1 - given.width) * high, high, 24, seed=0)
    texts = [format_arch(arch, space) for arch in archs]
    recorded = benchmark_modules[1].known_training
    settings = benchmark_modules[1].load_task("cluttered").train
    taken = [recorded("cluttered", given.space, given.data, settings, text) for text in texts]
    assert taken == [accuracies[text, 0] for text in texts]
    spread = statistics.stdev(accuracies[text, 0] for text in texts)
    noise = statistics.stdev(accuracies[texts[0], seed] for seed in range(1, 7))
    assert spread / noise >= 3


def test_a_known_training_is_not_repeated_and_another_setting_is(searching, tasks, tmp_path, monkeypatch):
    trainings = []

    def train(arch, space, data, config, out):
        trainings.append(config.seed)
        out.mkdir(parents=True)
        return argparse.Namespace(test_accuracy=0.5)

    monkeypatch.setattr(searching, "train", train)
    given = arguments(searching, "--task", "mine", "--out", str(tmp_path / "out"))
    space = load_space(given.space)
    text = "skip,skip/k5_e1,k3_e6,k5_e1/k3_e1_g2,k3_e3"
    tasks.keep_trainings("mine", [{"arch": text, "seed": 0, "test_accuracy": 0.75}])
    arch = parse_arch(text, space)
    assert searching.trained(arch, space, given, 0)["test_accuracy"] == 0.75
    assert trainings == []
    assert searching.trained(arch, space, given, 1)["test_accuracy"] == 0.5  # another seed
    given.train = {**given.train, "lr": 0.1}
    assert searching.trained(arch, space, given, 0)["test_accuracy"] == 0.5  # other settings
    assert trainings == [1, 0]


def test_known_trainings_count_when_a_setting_was_added_since(tasks):
    task = tasks.load_task("mine")
    tasks.keep_trainings("mine", [{"arch": "a", "seed": 0, "test_accuracy": 0.75}])
    stored = read_json(tasks.trainings_file("mine"))
    del stored["settings"]["accumulate"]
    write_json(tasks.trainings_file("mine"), stored)
    assert tasks.known_training("mine", task.space, task.data, task.train, "a") == 0.75


def test_trainings_are_added_and_those_of_other_settings_dropped(tasks, tmp_path):
    row = {"arch": "a", "seed": 0, "test_accuracy": 0.5}
    tasks.keep_trainings("mine", [row])
    tasks.keep_trainings("mine", [{**row, "seed": 1}, {**row, "test_accuracy": 0.9}])
    assert [r["test_accuracy"] for r in read_json(tasks.trainings_file("mine"))["trainings"]] == [0.5, 0.5]
    file = tmp_path / "mine.yaml"
    file.write_text(file.read_text().replace("lr: 0.2", "lr: 0.1"))
    tasks.keep_trainings("mine", [{**row, "seed": 7}])
    assert [r["seed"] for r in read_json(tasks.trainings_file("mine"))["trainings"]] == [7]
