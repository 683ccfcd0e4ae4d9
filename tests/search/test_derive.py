import itertools
import math
import random

import pytest
import torch

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import propose
from tvmfbnet.search.draw import most_probable_within
from tvmfbnet.search.quantities.latency import LATENCY

CELLS = ((1.0, 2.0, 3.0, 0.0), (0.5, 4.0, 1.0, 0.2), (2.0, 2.5, 0.1, 0.3))


def log_softmax(rows):
    return torch.tensor(rows, dtype=torch.float64).log_softmax(dim=1)


def test_the_most_probable_arch_within_a_target_is_that_of_exhaustive_search():
    draw = random.Random(0)
    for _ in range(60):
        cells = tuple(tuple(draw.uniform(0, 4) for _ in range(4)) for _ in range(3))
        costs = AdditiveCosts(LATENCY, cells, fixed=0.7)
        logs = log_softmax([[draw.gauss(0, 2) for _ in range(4)] for _ in range(3)]).tolist()
        target = draw.uniform(costs.least + 0.05, costs.most)
        fitting = (c for c in itertools.product(range(4), repeat=3) if costs.value(c) <= target * 0.9985)
        best = max((sum(r[i] for r, i in zip(logs, c, strict=True)) for c in fitting), default=-math.inf)
        likeliest = most_probable_within(logs, [Constraint(costs, target)])
        assert costs.value(likeliest) <= target
        assert sum(r[i] for r, i in zip(logs, likeliest, strict=True)) >= best - 1e-9


def test_the_fastest_arch_is_given_when_only_it_meets_the_target():
    costs = AdditiveCosts(LATENCY, CELLS, fixed=1.0)
    logs = log_softmax([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [9.0, 0, 0, 0]]).tolist()
    assert most_probable_within(logs, [Constraint(costs, costs.least)]) == (3, 3, 2)


def test_proposals_meet_the_target_are_distinct_and_never_empty(tiny_space):
    costs, generator = AdditiveCosts(LATENCY, CELLS, fixed=1.0), torch.Generator().manual_seed(0)
    sure_of_slowest = log_softmax([[0, 0, 50.0, 0], [0, 50.0, 0, 0], [0, 50.0, 0, 0]])
    proposed = propose(sure_of_slowest, tiny_space, costs, [Constraint(costs, 3.0)], 100, generator)
    assert proposed and all(candidate.predicted_ms <= 3.0 for candidate in proposed)
    uniform = propose(
        log_softmax([[0.0] * 4] * 3), tiny_space, costs, [Constraint(costs, 5.0)], 300, generator, tolerance=0.3
    )
    assert len({candidate.arch for candidate in uniform}) == len(uniform) > 5
    assert all(3.5 <= candidate.predicted_ms <= 5.0 for candidate in uniform)
    assert all(candidate.probability == pytest.approx(1 / 64) for candidate in uniform)


def test_sampling_follows_the_product_of_the_layers_probabilities(tiny_space):
    costs, generator = AdditiveCosts(LATENCY, CELLS, fixed=1.0), torch.Generator().manual_seed(0)
    logs = log_softmax([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [3.0, 0, 0, 0]])
    best = propose(logs, tiny_space, costs, (), 50, generator)[0]
    assert best.arch == "k3_e1/k3_e3,k3_e1" and best.predicted_ms == pytest.approx(8.0)
    assert best.probability == pytest.approx((math.exp(3) / (math.exp(3) + 3)) ** 3)


def test_an_unreachable_target_is_refused_with_the_reachable_range():
    costs = AdditiveCosts(LATENCY, CELLS, fixed=1.0)
    Constraint(costs, 1.31).require_reachable()
    with pytest.raises(ConstraintError, match=r"1\.3 to 10\.5 ms"):
        Constraint(costs, 1.29).require_reachable()
