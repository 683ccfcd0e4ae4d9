import copy
import math

import pytest
import torch

from tvmfbnet.data.datasets import load_data
from tvmfbnet.errors import DivergedError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.params import PARAMS
from tvmfbnet.search.searcher import Searcher

COSTS = AdditiveCosts(LATENCY, ((1.0, 2.0, 1.0, 0.0), (0.5, 2.0, 1.0, 0.2), (0.5, 2.0, 1.0, 0.2)), fixed=1.0)
TINY = {"epochs": 4, "warmup_epochs": 1, "batch_size": 16, "threads": 1, "device": "cpu", "temperature_decay": 0.5}


@pytest.fixture
def make(tiny_space, tiny_data):
    def build(costs=COSTS, past_bounds=None, limits=(), **changes):
        torch.manual_seed(0)
        data = load_data(tiny_data, 28, 28, 1, 10)
        config = SearchConfig(**{**TINY, **changes}).model_copy(update=past_bounds or {})
        return Searcher(tiny_space, data, costs, config, constraints=limits)

    return build


def run_to_end(searcher, steps=10**6):
    while not searcher.finished and steps:
        searcher.advance()
        steps -= 1
    return searcher


def snapshot(searcher):
    history = [{k: v for k, v in record.items() if k not in ("seconds", "data_wait")} for record in searcher.history]
    return searcher.supernet.state_dict(), history


def test_weights_and_theta_never_see_the_same_images(make):
    searcher, seen = make(), {"w": set(), "theta": set()}
    for name, loader in (("w", searcher._weights.batches), ("theta", searcher._theta.batches)):
        original = loader._images.load

        def spy(indices, augment, draws, name=name, original=original):
            seen[name] |= set(indices.tolist())
            return original(indices, augment, draws)

        loader._images = copy.copy(loader._images)
        loader._images.load = spy
    run_to_end(searcher)
    assert seen["w"] and seen["theta"] and not seen["w"] & seen["theta"]
    assert len(seen["w"] | seen["theta"]) > 110, "all but what incomplete batches leave out"


def test_warm_up_trains_weights_only_and_the_search_trains_both(make):
    searcher = make()
    while searcher.epoch < 1:
        searcher.advance()
    assert (searcher.supernet.theta == 0).all() and searcher.history[0]["phase"] == "warm-up"
    weights = [p.detach().clone() for p in searcher.supernet.weight_parameters()]
    while searcher.step < len(searcher._weights.batches):
        searcher.advance()
    assert (searcher.supernet.theta == 0).all(), "w's steps leave theta alone"
    trained = [p.detach().clone() for p in searcher.supernet.weight_parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(weights, trained, strict=True))
    searcher.advance()
    assert (searcher.supernet.theta != 0).all(), "every theta moves in theta's first step"
    after = searcher.supernet.weight_parameters()
    assert all(torch.equal(a, b) for a, b in zip(trained, after, strict=True)), "theta's steps leave w alone"
    assert all(p.requires_grad for p in after)


def test_temperature_falls_from_epoch_to_epoch_and_history_records_it(make):
    history = run_to_end(make()).history
    assert [record["temperature"] for record in history] == [5.0, 2.5, 1.25, 0.625]
    assert [record["epoch"] for record in history] == [1, 2, 3, 4]
    assert history[0]["entropy"] == pytest.approx(math.log(4)) and history[0]["theta_loss"] is None
    assert history[0]["expected_ms"] == pytest.approx(1 + 1.0 + 2 * 0.925)


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
def test_latency_pulls_theta_towards_cheap_blocks(make, form):
    costs = AdditiveCosts(LATENCY, tuple((9.0, 9.0, 0.01, 9.0) for _ in range(3)), fixed=0.1)
    searcher = run_to_end(make(costs=costs, loss=form, alpha=50.0, theta_lr=0.1))
    assert searcher.supernet.probabilities().argmax(dim=1).tolist() == [2, 2, 2]


def test_a_target_pulls_the_expected_latency_down_to_it(make):
    settings = {
        "epochs": 30,
        "temperature_decay": 0.75,
        "theta_lr": 0.1,
        "theta_batch_size": 8,
        "weight_steps": "sampled",
    }
    aimed = run_to_end(make(latency_target_ms=2.2, **settings))
    assert aimed.history[0]["expected_ms"] > 3.5
    assert 1.7 < aimed.history[-1]["expected_ms"] < 2.4, "met, and not much more than met"


def test_a_bound_on_parameters_pulls_their_mean_down_to_it_without_a_latency_target(make):
    cells = AdditiveCosts(PARAMS, ((100.0, 900.0, 500.0, 0.0),) * 3, fixed=200.0)
    settings = {"epochs": 30, "temperature_decay": 0.75, "theta_lr": 0.1, "theta_batch_size": 8}
    searcher = make(limits=[Constraint(cells, 800.0)], weight_steps="sampled", **settings)
    history = run_to_end(searcher).history
    assert history[0]["expected_params"] == pytest.approx(200 + 3 * 375)
    assert 600 < history[-1]["expected_params"] < 850, "met, and not much more than met"
    assert history[-1]["latency_price"] is None and history[1]["params_multiplier"] > 0
    assert searcher.largest_use() == pytest.approx(history[-1]["expected_params"] / 800)


def test_in_penalty_mode_a_bound_only_selects(make):
    cells = AdditiveCosts(PARAMS, ((100.0, 900.0, 500.0, 0.0),) * 3, fixed=200.0)
    bounded = run_to_end(make(limits=[Constraint(cells, 800.0)], mode="penalty"))
    free = run_to_end(make(mode="penalty"))
    assert torch.equal(bounded.supernet.theta, free.supernet.theta) and "expected_params" not in bounded.history[-1]
    assert bounded.largest_use() > 1


@pytest.mark.parametrize("form", ["mixture", "sampled", "two_path"])
def test_stopped_after_any_step_and_continued_it_ends_bit_equal(make, tmp_path, form):
    settings = {"weight_steps": form, "theta_steps": form, "latency_target_ms": 2.0, "augment_erase": 0.5, "epochs": 3}
    whole, last = make(**settings), 0
    stops = (3, 6, 9, 15)  # in the warm-up, at its end, among w's steps, among theta's
    for stop in stops:
        run_to_end(whole, stop - last)
        torch.save(whole.state_dict(), tmp_path / f"state{stop}")
        last = stop
    whole_state, whole_history = snapshot(run_to_end(whole))
    for stop in stops:
        second = make(**settings)
        torch.rand(7)  # whatever happened to the global generator meanwhile
        second.load_state_dict(torch.load(tmp_path / f"state{stop}", weights_only=True))
        state, history = snapshot(run_to_end(second))
        assert history == whole_history
        assert all(torch.equal(state[name], tensor) for name, tensor in whole_state.items())


def test_another_seed_gives_another_theta(make):
    first, second = run_to_end(make(seed=1)), run_to_end(make(seed=2))
    assert not torch.equal(first.supernet.theta, second.supernet.theta)


def test_nan_is_noticed_before_it_reaches_the_weights(make):
    searcher = make(past_bounds={"weight_lr": 1e30})
    with pytest.raises(DivergedError, match="lower weight_lr"):
        run_to_end(searcher)
