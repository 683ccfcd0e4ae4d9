"""How strategies step from arch to arch: mutations near the bounds, a policy that learns, a quiet sampler."""

import random

import pytest
import torch
from test_strategies import TabularTruth, tabular_problem

from tvmfbnet.search.strategies import strategy_named
from tvmfbnet.search.strategies.controller import Policy, reward_factor
from tvmfbnet.search.strategies.evaluating import uniform_log_probabilities
from tvmfbnet.search.strategies.evolution import members_for
from tvmfbnet.search.strategies.trials import Trials
from tvmfbnet.space.registry import load_space


def test_a_mutation_changes_one_layer_or_two_and_stays_near_a_bound():
    problem = tabular_problem(TabularTruth(load_space("fbnet_mini")), 20)
    trials, generator = Trials(problem), random.Random(0)
    parents, changed, children = trials.take_random(5), set(), set()
    for parent in parents:
        for _ in range(8):
            child = trials.take_mutated(parent, generator)
            changed.add(sum(a != b for a, b in zip(parent, child, strict=True)))
            uses = [limit.model.value(child) / limit.bound for limit in problem.constraints]
            assert all(use <= 1 for use in uses) and max(uses) >= 1 - trials.tolerance
            assert child not in children and child not in parents, "none twice"
            children.add(child)
    assert changed == {1, 2}


def test_mutations_and_random_archs_of_a_small_space_come_to_an_end(tiny_space):
    problem = tabular_problem(TabularTruth(tiny_space), 1000)
    trials, generator = Trials(problem), random.Random(0)
    (parent,), near = trials.take_random(1), 0
    while trials.take_mutated(parent, generator) is not None:
        near += 1
    far = len(trials.take_random(1000))
    assert near > 0 and far + near < tiny_space.size and trials.take_random(1) == []


def test_populations_suit_the_budget():
    assert [members_for(count) for count in (0, 1, 24, 48, 200, 10**6)] == [2, 2, 10, 14, 28, 100]


def test_the_reward_has_a_factor_for_each_violated_bound(tiny_space):
    problem = tabular_problem(TabularTruth(tiny_space), 4)
    within = Trials(problem).take_random(1)[0]
    assert reward_factor(within, problem.constraints) == 1
    beyond = tuple(max(range(len(row)), key=row.__getitem__) for row in problem.latency.cells)
    uses = [limit.model.value(beyond) / limit.bound for limit in problem.constraints]
    assert min(uses) > 1
    assert reward_factor(beyond, problem.constraints) == pytest.approx((uses[0] * uses[1]) ** -0.07)


def test_the_policy_turns_to_what_is_rewarded_and_from_what_violates(tiny_space):
    policy = Policy(uniform_log_probabilities(tiny_space))
    widths = [len(layer.blocks) for layer in tiny_space.layers]
    good, bad, violating = ([index] * len(widths) for index in (0, 1, 2))
    for _ in range(20):
        policy.learn([tuple(good), tuple(bad)], [0.8, 0.6], [(tuple(violating), 0.9)])
    probabilities = policy.logs.exp()
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(len(widths), dtype=torch.float64))
    assert (probabilities[:, 0] > 0.5).all() and (probabilities[:, 1:3] < 0.2).all()


def test_the_sampler_reports_nothing_and_leaves_its_verbosity_as_it_was(tiny_space, capfd):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        strategy_named("nsga2").rank(tabular_problem(TabularTruth(tiny_space), 6))
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    shown = capfd.readouterr()
    assert "optuna" not in shown.err and "Trial" not in shown.err and "study" not in shown.err
