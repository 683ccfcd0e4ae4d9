"""Pareto mode: one search gives nets at several latency bounds; promised under every strategy that is registered."""

import itertools
import json
import math
import statistics

import numpy as np
import pytest
import torch
from cost_models import PeakCosts
from test_search_run import TINY, table_of
from test_strategies import EVALUATING, TabularTruth

from tvmfbnet.errors import ConfigError, ConstraintError, StorageError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import ScoredArch, arch_string
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.front.accuracy_model import SharedModel
from tvmfbnet.search.front.nets import choose_front, front_bounds, read_front
from tvmfbnet.search.front.shared_search import search_front
from tvmfbnet.search.quantities.latency import LATENCY, latency_costs
from tvmfbnet.search.quantities.params import params_costs
from tvmfbnet.search.search import choose_again, sample_run, search
from tvmfbnet.search.strategies import STRATEGY_NAMES, strategy_named
from tvmfbnet.search.strategies.evaluating import ArchProblem, uniform_log_probabilities
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.registry import load_space

# --- a whole search, on images ---


# Of two steps, and judging.
TRAINING = 2 * 16 + 24 / 3


class Searched:
    """A tiny search for a front of four bounds under a bound on parameters."""

    def __init__(self, space, data, folder, strategy, once=None):
        self.space, self.data, self.strategy, self.folder, self._once = space, data, strategy, folder, once
        self.table = table_of(space)
        self.latency, self.params = latency_costs(self.table, space), params_costs(space)
        self.most_params = math.floor(self.params.least + 0.7 * (self.params.most - self.params.least))

    def go(self, name="search", **changes):
        return self._search(self.folder / name, **changes)

    def done(self, name="search"):
        """The same in a folder of that name, run once for all tests."""
        return self._once.copy(self.strategy, self._search, self.folder / name)

    def _search(self, folder, **changes):
        settings = {**TINY, "strategy": self.strategy, "front": 4, "finalist_steps": 2, "target_tolerance": 0.2}
        settings |= {"epochs": 2, "budget_images": round(12 * TRAINING)}
        settings |= {"constraints": [f"params<={self.most_params}"], "stop_on_collapse": False}
        config = SearchConfig(**{**settings, **changes})
        return search(self.space, self.data, self.table, config, folder)


@pytest.fixture(params=STRATEGY_NAMES)
def searched(request, once, tmp_path):
    return Searched(once.space, once.data, tmp_path, request.param, once)


def test_every_net_of_the_front_meets_its_bound_and_the_other_constraints(searched):
    result = searched.done()
    assert 2 <= len(result.front) <= 4
    bounds = [net.bound_ms for net in result.front]
    assert bounds == sorted(bounds) and len({net.arch for net in result.front}) == len(bounds)
    for net in result.front:
        arch = parse_arch(net.arch, searched.space)
        assert net.predicted_ms == pytest.approx(searched.table.arch_ms(arch, searched.space))
        assert net.predicted_ms <= net.bound_ms and count_arch(arch, searched.space).params <= searched.most_params
        assert [(c.quantity, c.bound, c.met) for c in net.constraints] == [
            ("latency", net.bound_ms, True),
            ("params", searched.most_params, True),
        ]
        assert 0 <= net.accuracy <= 1 and net.accuracy_spread >= 0
    accuracies = [net.accuracy for net in result.front]
    assert all(slow > fast for fast, slow in itertools.pairwise(accuracies))
    assert result.best.arch == result.front[-1].arch and result.best == result.candidates[0]


def test_the_front_is_a_file_and_the_search_is_used_like_any_other(searched):
    result = searched.done()
    record = read_front(searched.folder / "search")
    assert [net.arch for net in record.nets] == [net.arch for net in result.front]
    assert record.strategy == searched.strategy and record.evaluations == len(result.candidates)
    assert len(sample_run(searched.folder / "search", 3, 0, validate=True)) == 3
    (searched.folder / "search/front.json").write_text("{torn")
    with pytest.raises(StorageError, match=r"front\.json"):
        read_front(searched.folder / "search")


@pytest.mark.parametrize("after", [3, 11])
def test_interrupted_anywhere_a_front_ends_bit_equal(searched, monkeypatch, after):
    whole = searched.done("whole")
    count, real = [0], torch.nn.functional.cross_entropy

    def interrupted(*arguments, **options):
        count[0] += 1
        if count[0] > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(torch.nn.functional, "cross_entropy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searched.go("killed")
    assert searched.go("killed").front == whole.front
    for name in ("front.json", "archs.json"):
        assert (searched.folder / "killed" / name).read_text() == (searched.folder / "whole" / name).read_text()


def test_under_a_latency_target_the_front_ends_there_and_the_choice_may_be_repeated(searched):
    target_ms = searched.latency.least + 0.6 * (searched.latency.most - searched.latency.least)
    result = searched.go(latency_target_ms=target_ms)
    assert all(net.predicted_ms <= target_ms for net in result.front)
    assert all(candidate.predicted_ms <= target_ms for candidate in result.candidates)
    again = choose_again(searched.folder / "search", 1.1)
    assert again and all(candidate.predicted_ms <= target_ms for candidate in again)


def test_it_spends_no_more_than_planned(searched):
    result = searched.done()
    record = json.loads((searched.folder / "search/search.json").read_text())
    plan = strategy_named(searched.strategy).plan(SearchConfig(**record["config"]), 120)
    assert 0 < result.spent_images <= plan.images * (1 + 1e-9)


def test_a_search_without_a_front_is_another_search(searched):
    searched.done()
    with pytest.raises(StorageError, match="front was 4, now none"):
        searched.go(front=None)


def test_finalists_are_shared_among_the_bounds(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "differentiable")
    result = searched.go(finalists=10)
    trained = json.loads((tmp_path / "search/finalists.json").read_text())["accuracies"]
    assert len(trained) == len(result.candidates) == 10
    for net in result.front:
        assert net.evaluated_accuracy == trained[net.arch]
    with pytest.raises(ConfigError, match="3 evaluations are too few for a front of 4 bounds; raise finalists"):
        searched.go("few", finalists=3)


def test_a_budget_for_fewer_evaluations_than_bounds_is_refused(tiny_space, tiny_data, tmp_path):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    with pytest.raises(ConfigError, match=r"evaluations are too few for a front of 4 bounds; raise budget_images"):
        searched.go(budget_images=round(3 * TRAINING))


def test_where_all_archs_are_equally_fast_a_front_is_refused_before_anything_is_written(
    tiny_space, tiny_data, tmp_path
):
    searched = Searched(tiny_space, tiny_data, tmp_path, "random")
    with pytest.raises(ConstraintError, match="a front needs nets of several latencies"):
        searched.go(constraints=[f"params<={math.floor(searched.params.least)}"])
    assert not (tmp_path / "search").exists()


# --- the parts ---


def test_bounds_are_spread_over_what_the_constraints_leave():
    space = load_space("fbnet_mini")
    latency, params = latency_costs(table_of(space), space), params_costs(space)
    bounds = front_bounds(latency, (), 4)
    assert bounds[-1] == latency.most and bounds[0] > latency.least
    assert np.allclose(np.diff(bounds), (latency.most - latency.least) / 4)
    target_ms = 0.5 * latency.most
    few_params = Constraint(params, 0.3 * params.most)
    narrow = front_bounds(latency, (Constraint(latency, target_ms), few_params), 4)
    assert narrow[-1] <= target_ms and narrow == tuple(sorted(narrow))
    assert front_bounds(latency, (few_params,), 4)[-1] < latency.most


def test_bounds_that_no_arch_meets_with_a_constraint_that_does_not_add_up_are_left_out():
    rows = ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    latency = AdditiveCosts(LATENCY, rows, 0.7)
    # Only the slowest arch has no large cell.
    peak = Constraint(PeakCosts(((3.0, 2.0, 1.0), (3.0, 2.0, 1.0))), 1.0)
    assert front_bounds(latency, (peak,), 4) == (6.7,)


def candidate(latency_ms, accuracy):
    return ScoredArch(f"arch{latency_ms}", 0.0, latency_ms, accuracy)


def test_a_front_has_the_best_net_of_every_bound_and_fills_up_with_nets_between():
    archs = [candidate(*pair) for pair in [(1, 0.5), (2, 0.6), (2.5, 0.61), (3, 0.4), (4, 0.7), (5, 0.69), (9, 0.9)]]
    expected = {c.arch: (c.accuracy, 0.01) for c in archs}
    assert [net.arch for net in choose_front([2, 4], archs, expected)] == ["arch2", "arch4"]
    # The best net up to 6 is that up to 4; nets between take the place of the second.
    nets = choose_front([2, 4, 6], archs, expected)
    assert [(net.arch, net.bound_ms) for net in nets] == [("arch1", 2), ("arch2", 2), ("arch4", 4)]
    assert [net.arch for net in choose_front([0.5, 2], archs, expected)] == ["arch1", "arch2"], "nothing is that fast"


def table_problem(truth, evaluations, seed, bound_ms=None):
    latency = latency_costs(table_of(truth.space), truth.space)
    constraints = () if bound_ms is None else (Constraint(latency, bound_ms),)
    return ArchProblem(truth.space, latency, constraints, 0.03, seed, Meter(truth, 10.0 * evaluations))


@pytest.mark.parametrize("name", EVALUATING)
def test_one_search_for_a_front_is_better_than_separate_ones_of_equal_total_cost(name):
    """On a synthetic truth; benchmarks/front.py does it on trained nets."""
    shared, separate = [], []
    for seed in range(2):
        truth = TabularTruth(load_space("fbnet_mini"))
        rank, problem = strategy_named(name).rank, table_problem(truth, 40, seed)
        bounds = front_bounds(problem.latency, (), 5)
        front = search_front(problem, bounds, rank, uniform_log_probabilities(truth.space))
        assert 2 <= len(front.nets) <= 5 and len(truth.asked) == len(set(truth.asked)) <= 40
        for bound_ms in bounds:
            nets = [net for net in front.nets if net.predicted_ms <= bound_ms]
            shared.append(truth.truth(nets[-1].arch))
            separate.append(truth.truth(rank(table_problem(truth, 8, seed, bound_ms))[0].arch))
    assert statistics.mean(shared) > statistics.mean(separate)


def test_a_model_of_accuracy_is_right_about_its_own_uncertainty():
    truth, generator = TabularTruth(load_space("fbnet_mini")), np.random.default_rng(1)

    def draw():
        return tuple(int(generator.integers(len(layer.blocks))) for layer in truth.space.layers)

    archs = list(dict.fromkeys(draw() for _ in range(360)))
    names = [arch_string(choice, truth.space) for choice in archs]
    evaluated = dict(zip(archs[:60], truth.evaluate(names[:60]).values(), strict=True))
    expected = SharedModel(truth.space).fit(evaluated)(archs[60:])
    errors = np.array([truth.truth(name) for name in names[60:]]) - expected.mean
    assert np.corrcoef(errors + expected.mean, expected.mean)[0, 1] > 0.8
    assert np.mean(np.abs(errors) <= 2 * expected.spread) >= 0.85
    assert np.mean(np.abs(errors) <= 0.5 * expected.spread) < 0.6, "not uncertain beyond reason"


def test_one_evaluation_is_enough_for_a_model():
    truth = TabularTruth(load_space("fbnet_mini"))
    first = tuple(0 for _ in truth.space.layers)
    expected = SharedModel(truth.space).fit({first: 0.7})([first])
    assert expected.mean[0] == pytest.approx(0.7) and expected.spread[0] >= 0
