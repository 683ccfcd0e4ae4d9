"""Health of a search: what is reported, and that collapse and NaN stop it with an explanation and a checkpoint."""

import csv
import json
import math
import sys

import pytest
import torch
from test_search_run import TINY, table_of

from tvmfbnet.errors import CollapsedError, DivergedError, UserError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.health import collapse_of, health_of
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.search import search
from tvmfbnet.training.checkpoint import load_checkpoint

COSTS = AdditiveCosts(
    LATENCY,
    ((1.0, 2.0, 1.0, 1.0), (0.5, 2.0, 1.0, 0.2), (1.0, 2.0, 1.0, 0.0)),
    1.0,
    predicted=((False,) * 4, (False,) * 4, (True, False, False, False)),
)


def logs_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_the_figures_are_those_of_the_distribution(tiny_space):
    half = [0.5, 0.5, 1e-30, 1e-30]
    health = health_of(logs_of([0.25] * 4, half, [0.2, 0.2, 0.2, 0.4]), tiny_space, COSTS)
    assert health.layer_entropy[:2] == pytest.approx((math.log(4), math.log(2)))
    # Only the last layer of the tiny space keeps its shape: elsewhere skip projects, and computes.
    assert health.skip_mass == pytest.approx(0.4) and health.expected_depth == pytest.approx(2.6)
    expected = 1.0 + 1.25 + 1.25 + 0.8
    assert health.predicted_share == pytest.approx(0.2 / expected)


def test_only_a_collapse_is_called_one(tiny_space):
    uniform = health_of(logs_of(*[[0.25] * 4] * 3), tiny_space, COSTS)
    skipping = health_of(logs_of([0.25] * 4, [0.25] * 4, [0.02, 0.02, 0.01, 0.95]), tiny_space, COSTS)
    sure = health_of(logs_of(*[[1 - 3e-6, 1e-6, 1e-6, 1e-6]] * 3), tiny_space, COSTS)
    assert collapse_of(uniform, 4.0, None, 5.0, 0.9) is None
    assert "skip has taken over" in collapse_of(skipping, 4.0, None, 5.0, 0.9)
    assert collapse_of(skipping, 4.0, 0.97, 5.0, 0.9) is None, "a target that asks for it"
    assert "lower theta_lr" in collapse_of(skipping, 4.0, 0.5, 5.0, 0.9)
    assert "settled on noise" in collapse_of(sure, 4.0, None, 5.0, 0.9)
    assert collapse_of(sure, 4.0, None, 0.5, 0.9) is None, "at the end it may be certain"


def test_a_search_that_collapses_stops_with_a_checkpoint_and_may_be_told_to_go_on(tiny_space, tiny_data, tmp_path):
    config = {**TINY, "theta_lr": 5.0, "alpha": 1000.0, "latency_reference_ms": 0.1}
    with pytest.raises(CollapsedError, match=r"(skip has taken over|settled on noise).*search\.ckpt"):
        search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**config), tmp_path)
    assert load_checkpoint(tmp_path / "search.ckpt", "search")["searcher"]["epoch"] < 3
    told = SearchConfig(**config, stop_on_collapse=False)
    assert search(tiny_space, tiny_data, table_of(tiny_space), told, tmp_path).candidates


def test_a_search_that_diverges_says_where_and_keeps_a_sound_checkpoint(tiny_space, tiny_data, tmp_path):
    config = SearchConfig(**{**TINY, "checkpoint_steps": 1}).model_copy(update={"weight_lr": 1e30})  # past its bound
    with pytest.raises(DivergedError, match=r"first seen in .*learning rate.*gradient_clip.*checkpoint is kept"):
        search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path)
    if (tmp_path / "search.ckpt").exists():
        state = load_checkpoint(tmp_path / "search.ckpt", "search")["searcher"]["supernet"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values())


def test_figures_go_to_csv_and_tensorboard(tiny_space, tiny_data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = SearchConfig(**TINY, loggers=("csv", "tensorboard"))
    search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path)
    history = json.loads((tmp_path / "history.json").read_text())
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [float(row["skip_mass"]) for row in rows] == [record["skip_mass"] for record in history]
    assert float(rows[-1]["layer_entropy/2"]) == pytest.approx(history[-1]["layer_entropy"][2])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = events.Scalars("expected_ms")
    assert [event.step for event in shown] == [1, 2, 3]
    assert [event.value for event in shown] == pytest.approx([record["expected_ms"] for record in history])


def test_without_tensorboard_its_logger_says_what_to_install(tiny_space, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as an import that fails
    with pytest.raises(UserError, match=r"tvmfbnet\[tensorboard\]"):
        search(tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY, loggers=("tensorboard",)), tmp_path)
