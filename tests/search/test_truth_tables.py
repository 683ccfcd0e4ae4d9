"""The benchmark of strategies on tables of trained archs: its problems, and what `bayesian` reaches there."""

from pathlib import Path

import numpy as np
import pytest

from tvmfbnet.search.strategies import strategy_named

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MACRO, ACCEL = DATA / "nas-bench-macro_cifar10.json", DATA / "accel-nasbench_dataset_jsons.tar.gz"


@pytest.fixture
def tables(benchmark_script):
    if not MACRO.exists() or not ACCEL.exists():
        pytest.skip(f"no tables of trained archs in {DATA}")
    return benchmark_script("truth_tables")


def test_a_training_is_one_of_the_tables_and_the_best_is_within_the_bound(tables):
    truth = tables.macro_truths(MACRO, [65e6])[0]
    problem = truth.problem(20, seed=3)
    archs = [candidate.arch for candidate in problem.random_archs(20)]
    accuracies = problem.meter.evaluate(archs)
    assert accuracies == truth.problem(20, seed=3).meter.evaluate(archs[::-1])
    assert accuracies != truth.problem(20, seed=4).meter.evaluate(archs)
    regrets = [truth.regret(arch) for arch in archs]
    assert min(regrets) >= 0 and np.std([100 * a + r for a, r in zip(accuracies.values(), regrets, strict=True)]) < 1
    again = {problem.meter._evaluator.evaluate_again(archs[:1], n)[archs[0]] for n in range(1, 20)}
    assert 1 < len(again) <= 3


@pytest.mark.parametrize("bound", [45e6, 65e6, 80e6])
def test_bayesian_is_within_a_tenth_of_a_point_after_48_trainings(tables, bound):
    truth = tables.macro_truths(MACRO, [bound])[0]
    regrets = [truth.regret(strategy_named("bayesian").rank(truth.problem(48, seed))[0].arch) for seed in range(6)]
    assert np.mean(regrets) <= 0.1


@pytest.mark.parametrize("name", ["bayesian", "evolution", "controller", "random"])
def test_a_list_is_searched_without_leaving_it(tables, name):
    truth = tables.AccelTable(ACCEL).trained(380e6, 400e6)
    problem = truth.problem(30, seed=0)
    ranked = strategy_named(name).rank(problem)
    assert {candidate.arch for candidate in ranked} == set(problem.meter.accuracies) <= set(truth.listed)
    assert problem.meter.affordable == 0
