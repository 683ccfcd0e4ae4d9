import math

import pytest
import torch

from tvmfbnet.search.losses import (
    LOSS_FORMS,
    expected_cost,
    latency_term,
    penalised_loss,
)

REFERENCES = (0.001, 1.0, 20.0)
RATIOS = (0.0, 1e-9, 0.3, 1.0, 1.0000001, 2.0, 1e3, 1e9)


def value_and_slope(function, at):
    x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    y = function(x)
    y.backward()
    return y.item(), x.grad.item()


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_latency_term_is_finite_and_rising_below_at_and_above_the_reference(ratio, reference):
    value, slope = value_and_slope(lambda ms: latency_term(ms, 0.6, reference), ratio * reference)
    assert math.isfinite(value) and value >= 1.0 - 1e-12
    assert math.isfinite(slope) and slope > 0


def test_the_slope_has_no_jump_at_the_reference():
    slopes = [value_and_slope(lambda ms: latency_term(ms, 0.6, 1.0), 1.0 + d)[1] for d in (-1e-6, 1e-6)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-5)


def test_the_power_is_outside_the_logarithm():
    value = latency_term(torch.tensor(20.0, dtype=torch.float64), 0.6, 0.001).item()
    assert value == pytest.approx(math.log(20000) ** 0.6, rel=1e-3), "the paper's (log LAT)^beta, LAT in microseconds"
    assert abs(value - math.log(20000**0.6)) > 1, "not log(LAT^beta)"


@pytest.mark.parametrize("form", LOSS_FORMS)
@pytest.mark.parametrize("latency", [0.0, 1e-6, 0.001, 1.0, 1e6])
def test_both_forms_are_finite_with_gradients_for_every_latency(form, latency):
    loss = value_and_slope(lambda ms: penalised_loss(torch.tensor(2.3), ms, form, 0.2, 0.6, 0.001), latency)
    assert all(math.isfinite(number) for number in loss)


def test_the_two_forms_are_those_of_the_paper_and_the_article():
    ce, ms = torch.tensor(1.7, dtype=torch.float64), torch.tensor(30.0, dtype=torch.float64)
    term = math.log(math.e + 30000) ** 0.6
    assert penalised_loss(ce, ms, "additive", 0.2, 0.6, 0.001).item() == pytest.approx(1.7 + 0.2 * term)
    assert penalised_loss(ce, ms, "multiplicative", 0.2, 0.6, 0.001).item() == pytest.approx(1.7 * 0.2 * term)


def test_mixture_latency_adds_what_every_arch_pays():
    mix = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    cells = torch.tensor([[4.0, 8.0], [1.0, 100.0]])
    assert expected_cost(mix, cells, 0.5).item() == pytest.approx(0.5 + 7.0 + 1.0)
