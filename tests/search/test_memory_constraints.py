"""Peak memory as a constraint: it does not add up, and still every net that is chosen or drawn is within the bound."""

import itertools
import json
import random

import pytest
import torch
from cost_models import latency
from test_search_run import TINY, table_of

from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint, require_feasible
from tvmfbnet.search.cost_model import CostSources
from tvmfbnet.search.derive import choice_of, propose
from tvmfbnet.search.draw import Window, choices_between, log_probability, most_probable_within
from tvmfbnet.search.knapsack import is_infeasible, least_choice
from tvmfbnet.search.predictor.candidates import Candidates
from tvmfbnet.search.quantities import QUANTITIES
from tvmfbnet.search.quantities.peak_memory import PeakMemory
from tvmfbnet.search.quantities.size import size_costs
from tvmfbnet.search.search import sample_run, search
from tvmfbnet.space.registry import load_space

SPACE = """
input: {channels: 1, height: 16, width: 16}
classes: 4
stem: {channels: 8, stride: 2}
stages: [{channels: 8, layers: 2, stride: 1}, {channels: 16, layers: 2, stride: 2}]
blocks: [k3_e1, k3_e1_g2, k3_e3, k3_e6, skip]
last_channels: 16
"""


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "memory.yaml"
    path.write_text(SPACE)
    return load_space(str(path))


@pytest.fixture(scope="module")
def peak(space):
    return PeakMemory.of(space, FLOAT32)


@pytest.fixture(scope="module")
def archs(space):
    return list(itertools.product(*(range(len(layer.blocks)) for layer in space.layers)))


def random_rows(space, draw):
    rows = [[draw.gauss(0, 2) for _ in layer.blocks] for layer in space.layers]
    return torch.tensor(rows, dtype=torch.float64).log_softmax(dim=1).tolist()


def bounds_of(values):
    """Every value that some arch has but the largest: at each another set of archs fits."""
    return sorted(set(values))[:-1]


def test_the_range_is_that_of_all_archs_and_no_candidate_they_have_is_excluded(peak, archs):
    values = {choice: peak.value(choice) for choice in archs}
    assert (peak.least, peak.most) == (min(values.values()), max(values.values()))
    for bound in bounds_of(values.values()):
        allowed = peak.allowed(bound)
        fitting = [choice for choice, value in values.items() if value <= bound]
        assert all(allowed[layer][index] for choice in fitting for layer, index in enumerate(choice))


def test_the_most_probable_net_within_peak_memory_is_the_best_of_all(space, peak, archs):
    draw, exact, total = random.Random(0), 0, 0
    for bound in bounds_of(map(peak.value, archs)):
        rows, constraint = random_rows(space, draw), Constraint(peak, bound)
        best = max((c for c in archs if constraint.met(c)), key=lambda choice: log_probability(rows, choice))
        chosen = most_probable_within(rows, [constraint])
        assert constraint.met(chosen)
        exact, total = exact + (chosen == best), total + 1
    assert total >= 5 and exact >= 0.7 * total


def test_with_an_additive_constraint_it_is_solved_together(space, peak, archs):
    draw, size = random.Random(1), size_costs(space, FLOAT32)
    for bound in bounds_of(map(peak.value, archs)):
        rows = [[-log for log in row] for row in random_rows(space, draw)]
        sizes = sorted(size.value(choice) for choice in archs if peak.value(choice) <= bound)
        limits = [Constraint(peak, bound), Constraint(size, sizes[len(sizes) // 2])]
        chosen = least_choice(rows, limits)
        assert chosen is not None and all(limit.met(chosen) for limit in limits)
        assert not is_infeasible(limits)


def test_every_draw_is_within_the_bound_and_none_is_left_out(space, peak, archs):
    generator, bounds = torch.Generator().manual_seed(0), bounds_of(map(peak.value, archs))
    uniform = [[0.0] * len(layer.blocks) for layer in space.layers]
    for bound in (bounds[0], bounds[len(bounds) // 2]):
        constraint = Constraint(peak, bound)
        fitting = {choice for choice in archs if constraint.met(choice)}
        drawn = choices_between(uniform, [Window.up_to(constraint)], 6000, generator)
        assert set(drawn) == fitting
        assert {tuple(row) for row in Candidates(space, [constraint]).enumerate().tolist()} <= fitting


def test_every_proposed_net_is_within_all_bounds(space, peak, archs):
    bound = bounds_of(map(peak.value, archs))[2]
    size = size_costs(space, FLOAT32)
    limits = [Constraint(peak, bound), Constraint(size, size.least + 0.4 * (size.most - size.least))]
    theta = torch.tensor(random_rows(space, random.Random(2)), dtype=torch.float64)
    proposed = propose(theta, space, size, limits, 40, torch.Generator().manual_seed(0))
    assert proposed and all(candidate.meets_all for candidate in proposed)
    assert {check.quantity for candidate in proposed for check in candidate.constraints} == {"peak_memory", "size"}


def test_bounds_that_no_net_meets_are_refused_with_the_range(space, peak, archs):
    with pytest.raises(ConstraintError, match=r"a bound on peak_memory of 100 B: reachable are 3\.072kB to "):
        require_feasible([Constraint(peak, 100.0)])
    slow_where_small = tuple(tuple((max(row) - cell) / 1e4 for cell in row) for row in peak.cells)
    limits = [Constraint(peak, peak.least), latency(slow_where_small, 0.8)]
    limits[1].require_reachable()
    with pytest.raises(ConstraintError) as caught:
        require_feasible(limits)
    assert "no net of this space meets peak_memory<=3.072kB and latency<=0.8ms together" in str(caught.value)
    assert "with peak_memory<=3.072kB, latency is at least " in str(caught.value)


def test_a_search_proposes_only_nets_within_memory_and_size(tiny_space, tiny_data, tmp_path):
    sources = CostSources(tiny_space, table_of(tiny_space))
    models = [QUANTITIES[name].build(sources) for name in ("size", "peak_memory")]
    bounds = [f"{model.quantity.name}<={model.least + 0.6 * (model.most - model.least):.0f}B" for model in models]
    config = SearchConfig(**TINY, strategy="random", finalist_steps=2, constraints=bounds)
    result = search(tiny_space, tiny_data, table_of(tiny_space), config, tmp_path / "s")
    proposed = [*result.candidates, *sample_run(tmp_path / "s", 5, 0, bounds=config.bounds)]
    for candidate in proposed:
        choice = choice_of(candidate.arch, tiny_space)
        assert [check.quantity for check in candidate.constraints] == ["size", "peak_memory"]
        for check, model in zip(candidate.constraints, models, strict=True):
            assert check.met and check.value == model.value(choice) <= check.bound
    record = json.loads((tmp_path / "s/search.json").read_text())
    assert record["dtype"] == "float32" and set(record["cost_models"]) == {"size", "peak_memory"}
    damaged = {**record["cost_models"]["peak_memory"], "dtype": "float16"}
    with pytest.raises(ValueError, match="not that of the space"):
        QUANTITIES["peak_memory"].load(damaged, tiny_space)


@pytest.mark.parametrize("head", ["lraspp", "ssdlite"])
def test_peak_memory_of_other_heads_is_refused_where_their_kernels_are_not_known(tiny_space_file, head):
    headed = load_space(f"{tiny_space_file}@32,head={head}")
    with pytest.raises(
        ConstraintError, match=rf"the kernels of the head {head} in int8, some in floats, are not known"
    ):
        QUANTITIES["peak_memory"].build(CostSources(headed, None, dtype="int8"))
    tiny_space_file.write_text(tiny_space_file.read_text().replace("stride: 2}\n  -", "stride: 1}\n  -"))
    tiny_space_file.write_text(tiny_space_file.read_text().replace("layers: 2, stride: 2", "layers: 2, stride: 1"))
    with pytest.raises(ConstraintError, match="for two feature maps and three, not one"):
        QUANTITIES["peak_memory"].build(CostSources(load_space(f"{tiny_space_file}@32,head={head}"), None))
