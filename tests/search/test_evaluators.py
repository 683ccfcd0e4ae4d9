"""What every evaluator promises under a strategy, the budget in minutes, and the time that a search says it took."""

import json
import time

import pytest
import torch
from test_search_run import TINY, table_of

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import ConfigError, StorageError
from tvmfbnet.search import budget as budget_module
from tvmfbnet.search import clock
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.evaluators import EVALUATOR_NAMES, evaluator_named
from tvmfbnet.search.forecast import forecast_search
from tvmfbnet.search.judge import Judge
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.search import choose_again, sample_run, search
from tvmfbnet.search.strategies import strategy_named

# What a step of any training calls, and what a judgement with a supernet's weights calls.
STEP, JUDGEMENT = (torch.nn.functional, "cross_entropy"), (Judge, "accuracy")


@pytest.fixture(params=EVALUATOR_NAMES)
def go(request, tiny_space, tiny_data, tmp_path):
    """Searches by evolution with an evaluator, within a latency target that excludes archs."""
    latency = latency_costs(table_of(tiny_space), tiny_space)
    target_ms = latency.least + 0.7 * (latency.most - latency.least)

    def searched(name="search", strategy="evolution", **changes):
        settings = {**TINY, "latency_target_ms": target_ms, "target_tolerance": 0.2, "finalist_steps": 4}
        settings |= {"strategy": strategy, "evaluator": request.param, "bn_images": 32, "validation_images": 16}
        config = SearchConfig(**{**settings, **changes})
        return search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path / name)

    searched.evaluator, searched.folder, searched.target_ms = request.param, tmp_path, target_ms
    searched.images = len(load_data(tiny_data, 28, 28, 1, 10).train)
    return searched


def test_the_budget_pays_for_preparation_and_judgements_and_all_meet_the_target(go):
    result = go()
    assert all(c.predicted_ms <= go.target_ms and 0 <= c.accuracy <= 1 for c in result.candidates)
    config = SearchConfig(**json.loads((go.folder / "search/search.json").read_text())["config"])
    budget = strategy_named("differentiable").plan(config, images=go.images).images
    kind = evaluator_named(go.evaluator)
    prepared = kind.prepared_images(config, go.images, budget)
    assert (prepared > 0) == (go.evaluator == "supernet")
    one = (result.spent_images - prepared) / len(result.candidates)
    assert prepared + one <= result.spent_images <= budget
    plan = strategy_named("evolution").plan(config, go.images)
    assert result.spent_images <= plan.images * (1 + 1e-9) <= budget * (1 + 1e-9)


def test_interrupted_in_preparation_or_judgement_it_ends_bit_equal(go, monkeypatch):
    whole = go("whole")
    judged = [(JUDGEMENT, 2)] if go.evaluator == "supernet" else []
    for (owner, name), after in [(STEP, 1), (STEP, 7), *judged]:
        left, real = iter(range(after)), getattr(owner, name)

        def interrupted(*arguments, left=left, real=real, **options):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                go("killed")
    again = go("killed")
    assert again.candidates == whole.candidates and again.spent_images == whole.spent_images


def test_archs_are_judged_again_by_what_was_trained(go, monkeypatch):
    first = go()
    if go.evaluator == "supernet":  # nothing may be trained any more
        monkeypatch.setattr(torch.optim.SGD, "step", lambda *_, **__: pytest.fail("trained again"))
    drawn = sample_run(go.folder / "search", 3, 0, go.target_ms, validate=True)
    accuracies = {candidate.arch: candidate.accuracy for candidate in first.candidates}
    assert all(c.accuracy == accuracies.get(c.arch, c.accuracy) for c in drawn)
    again = choose_again(go.folder / "search", target_ms=0.95 * go.target_ms)
    assert again and all(candidate.predicted_ms <= 0.95 * go.target_ms for candidate in again)


def test_a_budget_too_small_is_refused_and_other_evaluators_have_other_folders(go):
    with pytest.raises(ConfigError, match="a budget of 20 images is too small to train"):
        go("small", budget_images=20)
    go()
    other = next(name for name in EVALUATOR_NAMES if name != go.evaluator)
    with pytest.raises(StorageError, match=rf"evaluator was {go.evaluator}, now {other}"):
        go(evaluator=other)


@pytest.mark.parametrize("go", ["supernet"], indirect=True)
def test_a_missing_or_damaged_supernet_is_one_line_that_names_the_file(go):
    go()
    file = go.folder / "search/supernet.ckpt"
    file.write_bytes(b"torn")
    for attempt in (go, lambda: choose_again(go.folder / "search", 1.0)):
        with pytest.raises(StorageError, match=r"supernet\.ckpt is not a readable checkpoint"):
            attempt()
    file.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*supernet\.ckpt"):
        choose_again(go.folder / "search", 1.0)


def test_unknown_evaluators_are_refused():
    with pytest.raises(ConfigError, match="or 'supernet'"):
        SearchConfig(evaluator="crystal_ball")
    with pytest.raises(ValueError, match="no evaluator is called"):
        evaluator_named("crystal_ball")


@pytest.mark.parametrize("go", ["short_training"], indirect=True)
def test_minutes_are_converted_once_and_the_resumed_search_spends_what_the_first_start_measured(go, monkeypatch):
    rates = iter([10.0, 1000.0])
    monkeypatch.setattr(budget_module, "images_per_second", lambda *_: next(rates))
    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "cross_entropy", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            go("killed", budget_minutes=1)
    resumed = go("killed", budget_minutes=1)
    by_images = go("images", budget_images=600)
    assert resumed.candidates == by_images.candidates and 500 < resumed.spent_images == by_images.spent_images <= 600
    file = go.folder / "killed/budget.json"
    assert json.loads(file.read_text())["images"] == 600
    file.write_text("{}")
    with pytest.raises(StorageError, match=r"budget\.json"):
        go("killed", budget_minutes=1)
    with pytest.raises(ConfigError, match="are two budgets: give one"):
        SearchConfig(budget_minutes=1, budget_images=600)


def test_a_dry_run_converts_minutes_by_measuring(tiny_space, tiny_data):
    config = {**TINY, "strategy": "random", "finalist_steps": 4}
    table = table_of(tiny_space)
    few, many = (
        forecast_search(tiny_space, tiny_data, table, SearchConfig(**config, budget_minutes=minutes))
        for minutes in (0.02, 2.0)
    )
    assert 0 < few.plan.finalist_steps < many.plan.finalist_steps
    assert 30 < many.seconds < 480, "about the two minutes that were asked for"


def test_the_time_of_all_starts_adds_up_and_a_finished_search_takes_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(clock, "_EVERY_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), clock.spent_time(tmp_path):
        time.sleep(0.2)
        assert json.loads((tmp_path / "spent.json").read_text())["seconds"] > 0.05, "kept meanwhile"
        raise KeyboardInterrupt
    with clock.spent_time(tmp_path) as spent:
        time.sleep(0.1)
        total = spent.finish()
    assert total > 0.3
    with clock.spent_time(tmp_path) as spent:
        time.sleep(0.05)
        assert spent.finish() == total
    (tmp_path / "spent.json").write_text("torn")
    with pytest.raises(StorageError, match=r"spent\.json"), clock.spent_time(tmp_path):
        pass
