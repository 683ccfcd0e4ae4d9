"""Constraints: how they are written, what they are refused for, and that no arch is ever drawn beyond one."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from cost_models import PEAK, PeakCosts, latency, params, peak
from test_search_run import TINY, table_of

from tvmfbnet.config import validate
from tvmfbnet.errors import ConfigError, ConstraintError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint, merged, parse_bound, parse_bounds, require_feasible
from tvmfbnet.search.controller import LagrangeController, penalised
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import choice_of, propose, sample_distinct
from tvmfbnet.search.draw import Window, choices_between, draws_between, log_probability, most_probable_within
from tvmfbnet.search.knapsack import least_choice
from tvmfbnet.search.quantities import QUANTITIES
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.search import sample_run, search
from tvmfbnet.search.strategies import STRATEGY_NAMES
from tvmfbnet.space.counts import count_part

ARCHS = list(itertools.product(range(4), repeat=3))


def random_cells(draw, layers=3, candidates=4):
    return tuple(tuple(draw.uniform(0, 4) for _ in range(candidates)) for _ in range(layers))


def random_logs(draw, layers=3, candidates=4):
    logs = [[draw.gauss(0, 0.7) for _ in range(candidates)] for _ in range(layers)]
    return torch.tensor(logs, dtype=torch.float64).log_softmax(dim=1)


def tight(make, cells, share):
    """A constraint that ``share`` of all archs meet."""
    values = sorted(make(cells, 0.0).model.value(choice) for choice in ARCHS)
    return make(cells, values[round(share * (len(values) - 1))])


@pytest.mark.parametrize(
    ("text", "name", "value", "canonical"),
    [
        ("params<=4.5M", "params", 4.5e6, "params<=4.5M"),
        (" params <= 4500k ", "params", 4.5e6, "params<=4.5M"),
        ("params<=1.2e4", "params", 12_000, "params<=12k"),
        ("params<=1234567", "params", 1_234_567, "params<=1.234567M"),
        ("latency<=8ms", "latency", 8.0, "latency<=8ms"),
        ("latency<=800us", "latency", 0.8, "latency<=0.8ms"),
        ("latency<=.01s", "latency", 10.0, "latency<=10ms"),
    ],
)
def test_a_constraint_is_read_and_written_in_one_form(text, name, value, canonical):
    bound = parse_bound(text)
    assert (bound.quantity.name, bound.value) == (name, pytest.approx(value))
    assert bound.text == canonical and parse_bound(canonical) == bound


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["params"], r"'params' is no constraint: a constraint is written QUANTITY<=BOUND"),
        (["params<4M"], "is no constraint"),
        (["params>=4M"], "is no constraint"),
        (["params<==4M"], "is no constraint"),
        (["params<=4M<=5M"], "is no constraint"),
        (["params<=many"], r"'many' is no bound on params: write 4\.5M, 800k or 12000"),
        (["params<=0"], "is no bound on params"),
        (["params<=-3M"], "is no bound on params"),
        (["params<=4.5MB"], "is no bound on params"),
        (["latency<=4.5M"], "is no bound on latency: write 8ms"),
        (["latency<=50%"], r"write a share of the slowest net's latency as --latency-target 50%"),
        (["memory<=2MB"], f"no quantity is called 'memory'; there are {', '.join(QUANTITIES)}"),
        (["params<=4M", "params<=5M"], r"params has two bounds, params<=4M and params<=5M: give one"),
    ],
)
def test_a_wrong_constraint_is_one_clear_line(texts, said):
    with pytest.raises(ConstraintError, match=said) as caught:
        parse_bounds(texts)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=said):
        validate(SearchConfig, {"constraints": texts}, "search settings")


def test_a_constraint_on_latency_is_the_latency_target():
    config = SearchConfig(constraints=["params<=4500k", "latency<=8ms"])
    assert (config.latency_target_ms, config.constraints) == (8.0, ("params<=4.5M",))
    assert SearchConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ConfigError, match=r"latency has two bounds, latency_target_ms 5.* and latency<=8ms: give one"):
        validate(SearchConfig, {"constraints": ["latency<=8ms"], "latency_target_ms": 5.0}, "x")
    SearchConfig(mode="target", constraints=["params<=1M"]).require_consistent_target()


def test_unreachable_and_contradicting_bounds_are_refused_with_what_is_reachable():
    cells = ((0.0, 3.0), (0.0, 3.0))
    opposite = ((3.0, 0.0), (3.0, 0.0))
    with pytest.raises(ConstraintError, match=r"a bound on params of 0\.2: reachable are 0\.3 to 6\.3"):
        require_feasible([latency(cells, 5.0), params(opposite, 0.2)])
    require_feasible([latency(cells, 3.8), params(opposite, 3.5)])
    with pytest.raises(ConstraintError) as caught:
        require_feasible([latency(cells, 1.0), params(opposite, 3.5)])
    assert str(caught.value) == (
        "no net of this space meets latency<=1ms and params<=3.5 together; with params<=3.5, latency is at least "
        "3.7 ms; with latency<=1ms, params is at least 6.3"
    )


def test_a_quantitys_own_bound_goes_before_an_earlier_one():
    one, other, new = latency(((1.0,),), 5.0), params(((1.0,),), 6.0), latency(((2.0,),), 7.0)
    assert merged([other, one], [new]) == (new, other)


def test_the_knapsack_finds_what_exhaustive_search_finds():
    draw = random.Random(0)
    for _ in range(40):
        limits = [tight(latency, random_cells(draw), 0.5), tight(params, random_cells(draw), draw.uniform(0.1, 0.6))]
        cost = random_cells(draw)
        fitting = [choice for choice in ARCHS if all(limit.met(choice) for limit in limits)]
        cheapest = least_choice(cost, limits)
        if not fitting:
            assert cheapest is None
            continue
        assert all(limit.met(cheapest) for limit in limits)
        least = min(log_probability(cost, choice) for choice in fitting)
        assert log_probability(cost, cheapest) == pytest.approx(least, abs=1e-6)


def test_draws_within_two_windows_are_all_that_lie_there_in_proportion():
    draw, generator = random.Random(3), torch.Generator().manual_seed(0)
    for _ in range(8):
        limits = [tight(latency, random_cells(draw), 0.6), tight(params, random_cells(draw), 0.4)]
        logs, windows = random_logs(draw).tolist(), [Window.up_to(limit) for limit in limits]
        fitting = {choice for choice in ARCHS if all(limit.met(choice) for limit in limits)}
        assert set(choices_between(logs, windows, 4000, generator)) == fitting
    likely = max(fitting, key=lambda choice: log_probability(logs, choice))
    share = math.exp(log_probability(logs, likely)) / sum(math.exp(log_probability(logs, c)) for c in fitting)
    drawn = draws_between(logs, windows, 4000, generator)
    assert len(drawn) == 4000 and drawn.count(likely) / 4000 == pytest.approx(share, abs=0.03)


def test_a_narrow_window_of_a_large_space_is_hit_under_a_second_constraint():
    draw, generator = random.Random(2), torch.Generator().manual_seed(0)
    cells, more = random_cells(draw, 22, 9), random_cells(draw, 22, 9)
    logs = random_logs(draw, 22, 9)
    first, second = latency(cells, 0.0).model, params(more, 0.0).model
    target = first.least + 0.5 * (first.most - first.least)
    least = least_choice(more, [Constraint(first, target)])
    bound = second.value(least) + 0.2 * (second.most - second.value(least))
    windows = [Window(first, 0.97 * target, target), Window(second, 0.0, bound)]
    drawn = choices_between(logs.tolist(), windows, 50, generator)
    assert len(drawn) == 50
    assert all(0.97 * target <= first.value(choice) <= target and second.value(choice) <= bound for choice in drawn)


LIMITS = {
    "latency": (latency,),
    "params": (params,),
    "two": (latency, params),
    "peak": (peak,),
    "latency and peak": (latency, peak),
    "three": (latency, params, peak),
}


@pytest.mark.parametrize("makers", LIMITS.values(), ids=LIMITS)
def test_whatever_is_derived_meets_every_constraint(makers, tiny_space):
    draw, generator = random.Random(5), torch.Generator().manual_seed(0)
    for _ in range(6):
        limits = [tight(make, random_cells(draw), 0.7) for make in makers]
        logs, speed = random_logs(draw), AdditiveCosts(LATENCY, random_cells(draw), 0.5)
        fitting = [choice for choice in ARCHS if all(limit.met(choice) for limit in limits)]
        assert fitting
        best = most_probable_within(logs.tolist(), limits)
        assert all(limit.met(best) for limit in limits)
        top = max(log_probability(logs.tolist(), choice) for choice in fitting)
        if len(limits) > 1 or makers == (peak,):  # a single additive one is solved on a grid
            assert log_probability(logs.tolist(), best) == pytest.approx(top)
        for candidates in (
            propose(logs, tiny_space, speed, limits, 60, generator, tolerance=0.2),
            sample_distinct(logs, tiny_space, speed, limits, 5, generator),
        ):
            assert candidates and len({candidate.arch for candidate in candidates}) == len(candidates)
            assert all(candidate.meets_all and len(candidate.constraints) == len(limits) for candidate in candidates)
            values = [check.value <= check.bound for candidate in candidates for check in candidate.constraints]
            assert all(values)


def test_proposals_lie_just_under_some_bound(tiny_space):
    draw, generator = random.Random(7), torch.Generator().manual_seed(0)
    limits = [tight(latency, random_cells(draw), 0.7), tight(params, random_cells(draw), 0.7)]
    proposed = propose(random_logs(draw), tiny_space, limits[0].model, limits, 200, generator, tolerance=0.2)
    for candidate in proposed:
        assert any(check.value >= 0.8 * check.bound for check in candidate.constraints)
    assert {c.quantity for a in proposed for c in a.constraints if c.value >= 0.8 * c.bound} == {"latency", "params"}


def test_what_no_arch_meets_is_said_also_where_only_trying_tells():
    cells = ((1.0, 5.0), (5.0, 1.0))
    logs = [[0.5, 0.5]] * 2
    assert most_probable_within(logs, [peak(cells, 1.0)]) == (0, 1)
    fast = latency(((9.0, 0.0), (0.0, 9.0)), 1.0)  # allows (1, 0) alone, whose peak is 5
    with pytest.raises(ConstraintError, match="found no net of this space that meets latency<=1ms and peak<=4"):
        most_probable_within(logs, [fast, peak(cells, 4.0)])
    sure = torch.tensor([[50.0, 0.0], [50.0, 0.0]]).log_softmax(dim=1).double().tolist()
    assert most_probable_within(sure, [peak(cells, 1.0)]) == (0, 1), "found although theta hardly ever draws it"


def test_each_constraint_has_a_multiplier_and_the_nearest_one_alone_pulls_theta_up():
    controllers = [LagrangeController(10.0, 5.0, 10), LagrangeController(100.0, 5.0, 10)]

    def slopes(first, second):
        at = [torch.tensor(first, requires_grad=True), torch.tensor(second, requires_grad=True)]
        penalised(torch.zeros(()), controllers, at).backward()
        return [float(value.grad) for value in at]

    near, far = slopes(8.0, 50.0)
    assert near < 0 and far == 0, "below both bounds, theta may only grow towards the nearer one"
    over, under = slopes(12.0, 50.0)
    assert over > 0 and under == 0
    assert min(slopes(12.0, 130.0)) > 0, "both exceeded: both push down"
    for _ in range(50):
        controllers[1].update(130.0)
    assert controllers[0].multiplier == 0 and controllers[1].multiplier > 0


def test_a_peak_is_no_sum():
    assert not isinstance(PeakCosts(((1.0,),)), AdditiveCosts)


def test_a_search_under_a_constraint_that_does_not_add_up_finds_what_meets_it(
    tiny_space, tiny_data, tmp_path, monkeypatch
):
    counts = [[float(count_part(layer.cell(block)).params) for block in layer.blocks] for layer in tiny_space.layers]
    costs = PeakCosts(tuple(tuple(row) for row in counts))
    registered = replace(PEAK, build=lambda sources: costs, load=lambda record, space: costs)
    monkeypatch.setitem(QUANTITIES, "peak", registered)
    monkeypatch.setattr(PeakCosts, "quantity", registered)
    bound = sorted(value for row in counts for value in row)[-3]
    for strategy in STRATEGY_NAMES:
        config = SearchConfig(**TINY, strategy=strategy, finalist_steps=4, constraints=[f"peak<={bound:.0f}"])
        result = search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path / strategy)
        for candidate in [*result.candidates, *sample_run(tmp_path / strategy, 5, 0, bounds=config.bounds)]:
            assert costs.value(choice_of(candidate.arch, tiny_space)) <= bound
            assert [check.quantity for check in candidate.constraints] == ["peak"]
    with pytest.raises(ConstraintError, match="a bound on peak of 1: reachable are"):
        search(
            tiny_space, tiny_data, table_of(tiny_space), SearchConfig(**TINY, constraints=["peak<=1"]), tmp_path / "x"
        )
