"""The latency target: the controller that steers theta to it, and the choice of archs just under it."""

import itertools
import math
import random

import pytest
import torch

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.controller import AIM, LagrangeController
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import ScoredArch, pareto_front, propose
from tvmfbnet.search.draw import Window, choices_between
from tvmfbnet.search.quantities.latency import LATENCY

CELLS = ((1.0, 2.0, 3.0, 0.0), (0.5, 4.0, 1.0, 0.2), (2.0, 2.5, 0.1, 0.3))


def random_case(draw, layers=3, candidates=4):
    cells = tuple(tuple(draw.uniform(0, 4) for _ in range(candidates)) for _ in range(layers))
    logs = [[draw.gauss(0, 0.7) for _ in range(candidates)] for _ in range(layers)]
    return AdditiveCosts(LATENCY, cells, fixed=0.7), torch.tensor(logs, dtype=torch.float64).log_softmax(dim=1)


def test_a_missed_target_pulls_more_the_longer_it_is_missed_and_a_kept_one_lowers_the_multiplier():
    controller = LagrangeController(10.0, strength=5.0, steps=10)
    slopes = []
    for expected in (9.85, 12.0, 12.0):
        at = torch.tensor(expected, requires_grad=True)
        controller.term(at).backward()
        slopes.append(float(at.grad))
        controller.update(expected)
    assert abs(slopes[0]) < 1e-6 and 0 < slopes[1] < slopes[2]
    for _ in range(1000):
        controller.update(5.0)
    assert controller.multiplier == 0.0


def test_the_controller_settles_at_the_target_whatever_the_trade_off_is_worth():
    """Minimises value * (3 - p) + term over one latency p: without a controller it would go to 3 or to 1."""
    for value in (0.01, 1.0, 5.0):
        logit = torch.zeros((), requires_grad=True)
        controller = LagrangeController(2.2, strength=10.0, steps=20)
        optimiser = torch.optim.Adam([logit], lr=0.05)
        for _ in range(600):
            expected = 1 + 2 * torch.sigmoid(logit)
            optimiser.zero_grad()
            (value * (3 - expected) + controller.term(expected)).backward()
            optimiser.step()
            controller.update(float(expected.detach()))
        assert float(expected.detach()) == pytest.approx(AIM * 2.2, rel=0.01)


def test_every_arch_that_is_drawn_lies_in_the_window_and_every_such_arch_can_be_drawn():
    draw, generator = random.Random(0), torch.Generator().manual_seed(0)
    for _ in range(20):
        costs, logs = random_case(draw)
        low = draw.uniform(costs.least, costs.most)
        high = low + 0.8
        fitting = {c for c in itertools.product(range(4), repeat=3) if low <= costs.value(c) <= high}
        assert set(choices_between(logs.tolist(), [Window(costs, low, high)], 5000, generator)) == fitting


def test_draws_follow_the_conditional_distribution():
    costs, logs = random_case(random.Random(1))
    low, high = costs.least + 1, costs.least + 4
    fitting = [c for c in itertools.product(range(4), repeat=3) if low <= costs.value(c) <= high]
    weights = [math.exp(sum(logs[i][j] for i, j in enumerate(c))) for c in fitting]
    likely = fitting[weights.index(max(weights))]
    generator = torch.Generator().manual_seed(0)
    hits = (
        sum(choices_between(logs.tolist(), [Window(costs, low, high)], 1, generator) == [likely] for _ in range(600))
        / 600
    )
    assert hits == pytest.approx(max(weights) / sum(weights), abs=0.06)


def test_a_target_is_hit_within_three_percent_across_the_range_of_a_large_space(tiny_space):
    draw, generator = random.Random(2), torch.Generator().manual_seed(0)
    costs, logs = random_case(draw, layers=22, candidates=9)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        target = costs.least + share * (costs.most - costs.least)
        choices = choices_between(logs.tolist(), [Window(costs, 0.97 * target, target)], 50, generator)
        assert len(choices) > 20
        assert all(0.97 * target <= costs.value(choice) <= target for choice in choices)


def test_where_no_arch_is_just_under_the_target_the_next_faster_ones_are_proposed(tiny_space):
    costs, generator = AdditiveCosts(LATENCY, CELLS, fixed=1.0), torch.Generator().manual_seed(0)
    uniform = torch.zeros(3, 4).log_softmax(dim=1)
    assert [
        c.predicted_ms for c in propose(uniform, tiny_space, costs, [Constraint(costs, costs.least)], 50, generator)
    ] == [1.3]
    far = propose(uniform, tiny_space, costs, [Constraint(costs, 1000.0)], 50, generator)
    assert far and all(c.predicted_ms <= costs.most for c in far)
    assert choices_between(uniform.tolist(), [Window(costs, 0.1, 0.5)], 10, generator) == [], (
        "less than stem and head take"
    )


def test_where_few_archs_are_near_the_target_faster_ones_join_them(tiny_space):
    costs, generator = AdditiveCosts(LATENCY, CELLS, fixed=1.0), torch.Generator().manual_seed(0)
    uniform, target = torch.zeros(3, 4).log_softmax(dim=1), [Constraint(costs, costs.most)]
    few = propose(uniform, tiny_space, costs, target, 200, generator)
    many = propose(uniform, tiny_space, costs, target, 200, generator, fewest=30)
    assert len(few) < 30 <= len(many) and {c.arch for c in few} <= {c.arch for c in many}
    all_of_them = propose(uniform, tiny_space, costs, target, 2000, generator, fewest=2000)
    assert len(all_of_them) == len({c.arch for c in all_of_them}) > 50


def test_an_archs_spread_adds_its_cells_in_squares(tiny_space):
    spreads = ((0.3, 0, 0, 0), (0.4, 0, 0, 0), (0, 0, 0, 1.2))
    costs = AdditiveCosts(LATENCY, CELLS, 1.0, spreads)
    assert costs.spread((0, 0, 3)) == pytest.approx(1.3)
    doubled = costs.scaled(2.0)
    assert doubled.value((0, 0, 3)) == pytest.approx(2 * costs.value((0, 0, 3)))
    assert doubled.spread((0, 0, 3)) == pytest.approx(2.6)
    assert AdditiveCosts.from_dict(LATENCY, doubled.to_dict()) == doubled


def test_the_front_holds_what_nothing_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (5.0, None)]
    candidates = [ScoredArch(str(i), 0.1, ms, accuracy) for i, (ms, accuracy) in enumerate(points)]
    assert [c.arch for c in pareto_front(candidates)] == ["0", "2", "4"]
    assert pareto_front([]) == []
