"""The last choice by short trainings: what it leaves and keeps."""

import json
import math

import pytest
from test_search_run import TINY, table_of

from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.rungs import rungs_of
from tvmfbnet.search.search import choose_again, search
from tvmfbnet.search.short_training import ShortTraining
from tvmfbnet.space.arch_text import parse_arch


@pytest.fixture
def aimed(tiny_space):
    low, high = table_of(tiny_space).range_ms(tiny_space)
    target = low + 0.7 * (high - low)
    return SearchConfig(**TINY, latency_target_ms=target, target_tolerance=0.3, finalists=6, finalist_steps=4)


def test_what_is_found_was_trained_and_meets_the_target(tiny_space, tiny_data, tmp_path, aimed):
    table = table_of(tiny_space)
    result = search(tiny_space, tiny_data, table, aimed, tmp_path)
    accuracies = json.loads((tmp_path / "finalists.json").read_text())["accuracies"]
    assert len(accuracies) == len(result.candidates) == 6
    assert {candidate.arch for candidate in result.candidates} == set(accuracies)
    assert result.best.accuracy == max(candidate.accuracy for candidate in result.candidates)
    for candidate in result.candidates:
        assert candidate.predicted_ms == pytest.approx(
            table.arch_ms(parse_arch(candidate.arch, tiny_space), tiny_space)
        )
        assert candidate.predicted_ms <= aimed.latency_target_ms
        by_theta = [
            math.log(math.exp(row[layer.blocks.index(block)]) / sum(map(math.exp, row)))
            for row, layer, block in zip(
                result.theta, tiny_space.layers, parse_arch(candidate.arch, tiny_space).blocks, strict=True
            )
        ]
        assert math.log(candidate.probability) == pytest.approx(sum(by_theta), abs=1e-4)


def test_rungs_cost_what_the_finalists_would_and_train_ever_fewer_archs_for_longer():
    for finalists, steps, count in [(24, 150, 1), (24, 150, 2), (27, 180, 3), (1, 5, 6), (7, 3, 2)]:
        config = SearchConfig(finalists=finalists, finalist_steps=steps, finalist_rungs=count)
        rungs = rungs_of(config)
        assert len(rungs) == count and rungs[-1].steps == steps
        assert [rung.steps for rung in rungs] == sorted(rung.steps for rung in rungs)
        assert [rung.archs for rung in rungs] == sorted((rung.archs for rung in rungs), reverse=True)
        plan = SearchPlan.of(config, 60000)
        assert plan.finalist_steps == sum(rung.all_steps for rung in rungs)
        if finalists >= count:
            assert 0.9 * finalists * steps < plan.finalist_steps <= finalists * steps
    assert [(rung.archs, rung.steps) for rung in rungs_of(SearchConfig(finalists=24, finalist_rungs=2))] == [
        (36, 50),
        (12, 150),
    ]
    assert rungs_of(SearchConfig(finalist_rungs=2)) == []


def test_a_front_has_no_rungs(tmp_path):
    with pytest.raises(ConfigError, match="front and finalist_rungs exclude each other"):
        validate(SearchConfig, {"front": 4, "finalists": 8, "finalist_rungs": 2}, "search settings")


def test_each_rung_trains_the_best_of_the_one_before_it(tiny_space, tiny_data, tmp_path, aimed):
    halved = aimed.model_copy(update={"finalists": 6, "finalist_steps": 9, "finalist_rungs": 2})
    result = search(tiny_space, tiny_data, table_of(tiny_space), halved, tmp_path)
    (many, few), folder = rungs_of(halved), tmp_path
    first = json.loads((folder / "finalists-1.json").read_text())["accuracies"]
    last = json.loads((folder / "finalists.json").read_text())
    assert len(first) == many.archs > few.archs
    assert len(last["accuracies"]) + sum(map(len, last["repeated"].values())) == few.archs
    assert set(last["accuracies"]) == {candidate.arch for candidate in result.candidates} <= set(first)


@pytest.mark.parametrize(
    "changes", [{}, {"finalist_start": "supernet"}, {"finalist_steps": 3, "finalist_rungs": 2}], ids=str
)
def test_trainings_are_repeatable_and_those_that_were_done_are_not_done_again(
    tiny_space, tiny_data, tmp_path, aimed, changes, monkeypatch
):
    aimed = aimed.model_copy(update=changes)
    whole = search(tiny_space, tiny_data, table_of(tiny_space), aimed, tmp_path / "whole")
    train, done = ShortTraining._train, []

    def train_three(self, arch, stepped):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arch)
        return train(self, arch, stepped)

    monkeypatch.setattr(ShortTraining, "_train", train_three)
    with pytest.raises(KeyboardInterrupt):
        search(tiny_space, tiny_data, table_of(tiny_space), aimed, tmp_path / "killed")
    first = "finalists-1.json" if "finalist_rungs" in changes else "finalists.json"
    assert set(json.loads((tmp_path / "killed" / first).read_text())["accuracies"]) == set(done)
    monkeypatch.setattr(ShortTraining, "_train", train)
    again = search(tiny_space, tiny_data, table_of(tiny_space), aimed, tmp_path / "killed")
    assert again.candidates == whole.candidates
    before = json.loads((tmp_path / "killed/finalists.json").read_text())["accuracies"]
    chosen = choose_again(tmp_path / "killed", target_ms=0.8 * aimed.latency_target_ms)
    after = json.loads((tmp_path / "killed/finalists.json").read_text())["accuracies"]
    assert before.items() <= after.items() and {c.arch for c in chosen} <= set(after)
    assert all(candidate.predicted_ms <= 0.8 * aimed.latency_target_ms for candidate in chosen)
