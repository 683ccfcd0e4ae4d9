"""How paths are drawn: within the constraints' windows, or every block once."""

import math

import pytest
import torch

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.paths import fair_paths, window_paths
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.params import PARAMS

TIMES = AdditiveCosts(LATENCY, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (1.0, 2.0)), fixed=1.0)
SIZES = AdditiveCosts(PARAMS, ((10.0, 20.0, 90.0), (30.0, 20.0, 10.0), (10.0, 20.0)), fixed=10.0)
EQUAL = torch.tensor([[0.0] * 3, [0.0] * 3, [0.0, 0.0, -math.inf]]).log_softmax(dim=1)


def drawn(constraints, share=0.1, logs=EQUAL, count=200):
    return window_paths(logs, constraints, share, count, torch.Generator().manual_seed(0))


def test_window_paths_lie_just_below_the_bound_in_proportion_to_their_probability():
    paths = drawn([Constraint(TIMES, 6.0)])
    assert len(paths) == 200 and {TIMES.value(path) for path in paths} == {6.0}
    assert len({tuple(path) for path in paths}) == 5, "all archs of that latency"
    likely = EQUAL + torch.tensor([[3.0, 0.0, 0.0]] + [[0.0] * 3] * 2)
    share = sum(path[0] == 0 for path in drawn([Constraint(TIMES, 6.0)], logs=likely.log_softmax(dim=1))) / 200
    assert share > 0.6 > sum(path[0] == 0 for path in paths) / 200


def test_with_two_constraints_each_binds_some_paths_and_all_meet_both():
    paths = drawn([Constraint(TIMES, 7.0), Constraint(SIZES, 70.0)])
    assert all(TIMES.value(path) <= 7.0 and SIZES.value(path) <= 70.0 for path in paths)
    assert any(TIMES.value(path) >= 6.3 for path in paths) and any(SIZES.value(path) >= 63.0 for path in paths)


def test_the_window_opens_downwards_where_it_is_empty_and_no_arch_at_all_is_an_error():
    assert {TIMES.value(path) for path in drawn([Constraint(TIMES, 5.9)], share=0.01)} <= {5.0, 4.0}
    with pytest.raises(ConstraintError, match="no arch that meets the constraints"):
        drawn([Constraint(TIMES, 3.0)])


def test_fair_paths_take_every_block_of_a_layer_once():
    paths = fair_paths([9, 4, 1], torch.Generator().manual_seed(0))
    first, second, third = zip(*paths, strict=True)
    assert sorted(first) == list(range(9)) and list(first) != list(range(9))
    assert {second.count(block) for block in range(4)} <= {2, 3} and set(third) == {0}
