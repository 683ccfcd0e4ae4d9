"""A search forecasts its time before it starts: its steps are counted as they come, and days are warned of."""

import re
import time
from dataclasses import replace

import pytest
import torch
from test_search_run import TINY, figures, table_of

from tvmfbnet.data.datasets import load_data
from tvmfbnet.durations import spell_seconds, warning_of_days
from tvmfbnet.search import forecast as forecast_module
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.forecast import Forecast, SearchPlan, StepSeconds, forecast_search, is_little, shorter
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.search import search
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.registry import load_space
from tvmfbnet.training.workers import Workers


@pytest.mark.parametrize("settings", [{}, {"train_images": 50, "theta_batch_size": 5}, {"weight_share": 0.5}])
def test_the_planned_steps_are_those_that_come(tiny_space, tiny_data, settings):
    config = SearchConfig(**{**TINY, **settings})
    data = load_data(tiny_data, 28, 28, 1, 10)
    searcher = Searcher(tiny_space, data, latency_costs(table_of(tiny_space), tiny_space), config)
    while not searcher.finished:
        left = SearchPlan.of(config, len(data.train), searcher.epoch, searcher.step)
        planned = left.warmup_steps + left.weight_steps + left.theta_steps
        assert planned == searcher.total_steps - searcher.done_steps
        searcher.advance()


def test_what_is_left_after_the_steps_is_counted_too():
    config = SearchConfig(candidates=5, screened=20, finalists=4, finalist_steps=30)
    plan = SearchPlan.of(config, 10_000)
    assert plan.finalist_steps == 120
    assert plan.judged_images == 5 * (1024 + 2000) + 20 * (512 + 512) + 4 * 2000


def test_a_forecast_adds_up_and_warns_of_days_with_the_settings_that_shorten_them():
    config, space = SearchConfig(), load_space("fbnet")
    plan = SearchPlan.of(config, 1_281_167)
    forecast = Forecast(plan, StepSeconds(6.0, 48.0, 36.0), shorter(config, space, "cpu", 1_281_167))
    assert forecast.seconds > 6 * plan.warmup_steps + 48 * plan.weight_steps + 36 * plan.theta_steps
    assert re.match(r"about \d+ days .*427,040 steps of weights x 48 s \+ ", forecast.describe())
    for setting in ("--device cuda", "weight_steps: sampled", "epochs (it is 90)", "1,281,167", "?classes=100", "@96"):
        assert setting in forecast.warning
    assert forecast.warning.startswith("warning: that is more than a day")
    assert not Forecast(replace(plan, weight_steps=10, theta_steps=1, warmup_steps=1), forecast.step, ()).warning


def test_a_dry_run_measures_and_the_search_itself_takes_about_that_long(tmp_path):
    space, config = (
        load_space("fbnet_mini"),
        SearchConfig(
            **{
                **TINY,
                "epochs": 2,
                "batch_size": 32,
                "train_images": 300,
                "validation_images": 40,
                "checkpoint_steps": 50,
            },
            bn_images=64,
        ),
    )
    table = table_of(space)
    forecast = forecast_search(space, "fashion_mnist", table, config)
    started = time.monotonic()
    search(space, "fashion_mnist", table, config, tmp_path)
    took = time.monotonic() - started
    assert forecast.seconds / 10 < took < 10 * forecast.seconds + 5, "this machine may be busy"


def test_a_forecast_changes_nothing_of_a_search(tiny_space, tiny_data, tmp_path, monkeypatch, capsys):
    config = SearchConfig(**TINY)
    plain = search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path / "plain")
    assert "search: less than a minute's work" in capsys.readouterr().err
    monkeypatch.setattr(forecast_module, "is_little", lambda *_: False)
    told = search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path / "told")
    assert re.search(r"search: about .* \(6 steps of warm-up x .* \+ judging archs ", capsys.readouterr().err)
    assert told.theta == plain.theta and told.candidates == plain.candidates
    assert figures(tmp_path / "told") == figures(tmp_path / "plain")


def test_only_little_work_is_not_measured(tiny_space):
    config = SearchConfig(**TINY)
    assert is_little(tiny_space, config, SearchPlan.of(config, 120))
    assert not is_little(load_space("fbnet_mini"), SearchConfig(), SearchPlan.of(SearchConfig(), 10_000))


def test_several_processes_try_whole_batches_alike(tiny_space, tiny_data, monkeypatch):
    from tvmfbnet.search import forecast as module

    tried = []
    real = module._try_steps

    def noted(space, data, costs, config, workers, batch, kinds):
        tried.append(batch)
        return real(space, data, costs, config, Workers.alone(torch.device("cpu")), batch, kinds)

    monkeypatch.setattr(module, "_try_steps", noted)
    data, config = load_data(tiny_data, 28, 28, 1, 10), SearchConfig(**{**TINY, "batch_size": 64})
    costs, plan = latency_costs(table_of(tiny_space), tiny_space), SearchPlan.of(config, 120)
    module.forecast(tiny_space, data, costs, config, Workers(0, 2, torch.device("cpu")), plan)
    assert tried == [64]
    module.forecast(tiny_space, data, costs, config, Workers.alone(torch.device("cpu")), plan)
    assert tried[1] == 8


def test_durations_are_told_in_two_units():
    told = [spell_seconds(s) for s in (0.237, 8.04, 45.3, 720, 12_000, 7200, 86_400, 4 * 86_400 + 3 * 3600)]
    assert told == ["0.24 s", "8 s", "45 s", "12 min", "3 h 20 min", "2 h", "1 day", "4 days 3 h"]
    assert warning_of_days(86_399, ["x"]) == ""
