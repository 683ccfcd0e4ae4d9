"""Theta fitted to losses of drawn archs: it recovers what blocks contribute, and its mean arch meets the bound."""

import pytest
import torch
from test_searcher import make, run_to_end  # noqa: F401

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.controller import AIM, Steered
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.fitted_theta import EffectFit
from tvmfbnet.search.multipliers import bounded_theta
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.params import PARAMS

MASK = torch.tensor([[True] * 3, [True] * 3, [True, True, False]])
TIMES = AdditiveCosts(LATENCY, ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0), (1.0, 2.0)), fixed=1.0)
SIZES = AdditiveCosts(PARAMS, ((9.0, 2.0, 1.0), (3.0, 2.0, 1.0), (1.0, 2.0)), fixed=1.0)


def steered(costs, bound):
    return Steered.of(Constraint(costs, bound), 10.0, 1, torch.device("cpu"))


def mean_cost(theta, item):
    return float(item.expected(theta.masked_fill(~MASK, -torch.inf).softmax(dim=1)))


def test_planted_effects_are_recovered_whatever_a_batch_adds_to_all_of_its_losses():
    generator = torch.Generator().manual_seed(0)
    effects = torch.tensor([[0.3, 0.0, -0.3], [0.0, 0.1, -0.1], [0.2, -0.2, 0.0]])
    fit = EffectFit(MASK)
    for _ in range(60):
        paths = [[int(torch.randint(int(row.sum()), (), generator=generator)) for row in MASK] for _ in range(8)]
        noise = 0.05 * torch.randn(8, generator=generator)
        base = 10 * torch.rand((), generator=generator)
        losses = [
            float(base + sum(effects[place, i] for place, i in enumerate(p)) + e)
            for p, e in zip(paths, noise, strict=True)
        ]
        fit.add(paths, losses)
    solved, deviation = fit.solve()
    assert torch.allclose(solved.float(), effects, atol=0.03) and 0.04 < deviation < 0.06
    assert solved[2, 2] == 0


def test_forgotten_losses_yield_to_new_ones():
    fit = EffectFit(MASK)
    for sign in (1.0, -1.0):
        for _ in range(20):
            fit.add([[0, 0, 0], [1, 0, 0]], [sign, 0.0])
        fit.forget(0.1 if sign > 0 else 1.0)
    effects, _ = fit.solve()
    assert effects[0, 0] < -0.3 < 0.3 < effects[0, 1]


@pytest.mark.parametrize("tilt", [-4.0, 0.0, 4.0])
def test_a_multiplier_brings_the_mean_arch_to_the_bound_from_both_sides(tilt):
    theta = tilt * torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 1.0, 0.0]])
    item = steered(TIMES, 6.0)
    bounded, (multiplier,) = bounded_theta(theta, MASK, [item])
    assert mean_cost(bounded, item) == pytest.approx(AIM * 6.0, rel=1e-4)
    assert (multiplier > 0) == (mean_cost(theta, item) > AIM * 6.0)


def test_of_two_bounds_both_are_met_and_one_that_nothing_violates_has_multiplier_0():
    items = [steered(TIMES, 6.0), steered(SIZES, 7.0)]
    bounded, _ = bounded_theta(torch.zeros(3, 3), MASK, items)
    assert all(mean_cost(bounded, item) <= AIM * item.constraint.bound * 1.01 for item in items)
    free = steered(SIZES, 100.0)
    bounded, multipliers = bounded_theta(torch.zeros(3, 3), MASK, [free])
    assert multipliers == [0.0] and torch.equal(bounded, torch.zeros(3, 3))


def test_in_a_search_theta_moves_to_the_target_and_w_stays_in_its_steps(make):  # noqa: F811
    searcher = run_to_end(make(theta_steps="fitted", latency_target_ms=3.0, weight_steps="sampled"))
    assert searcher.history[-1]["expected_ms"] == pytest.approx(AIM * 3.0, rel=1e-3)
    assert searcher.supernet.theta.std() > 0 and searcher.history[-1]["theta_loss"] > 0


def test_without_constraints_the_papers_latency_term_counts(make):  # noqa: F811
    costs = AdditiveCosts(LATENCY, tuple((9.0, 9.0, 0.01, 9.0) for _ in range(3)), fixed=0.1)
    searcher = run_to_end(make(costs=costs, theta_steps="fitted", alpha=50.0))
    assert searcher.supernet.probabilities().argmax(dim=1).tolist() == [2, 2, 2]


def test_theta_that_was_learned_otherwise_is_refused(make):  # noqa: F811
    learned, fitted = (run_to_end(make(theta_steps=how), 9).state_dict() for how in ("sampled", "fitted"))
    with pytest.raises(ValueError, match="not fitted"):
        make(theta_steps="fitted").load_state_dict(learned)
    with pytest.raises(ValueError, match="was fitted"):
        make(theta_steps="sampled").load_state_dict(fitted)
