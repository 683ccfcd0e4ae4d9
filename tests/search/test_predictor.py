"""The accuracy predictor: features, fit to noisy observations of several sources, and what is solved exactly."""

import itertools
import math

import numpy as np
import pytest
from test_search_run import table_of

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.knapsack import least_choice, least_choices
from tvmfbnet.search.predictor.candidates import Candidates
from tvmfbnet.search.predictor.features import ArchFeatures, Canonical
from tvmfbnet.search.predictor.kernels import KERNELS, LINEAR, covariances, variances
from tvmfbnet.search.predictor.model import AccuracyModel, Observations, observed
from tvmfbnet.search.predictor.optimiser import ArchOptimiser
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.search.quantities.macs import macs_costs
from tvmfbnet.search.quantities.params import params_costs
from tvmfbnet.space.registry import load_space

MINI = load_space("fbnet_mini")


def random_choices(space, count, seed=0):
    draw = np.random.default_rng(seed)
    return np.stack([draw.integers(len(layer.blocks), size=count) for layer in space.layers], axis=1)


def constraints_of(space, share=0.5):
    latency, params = latency_costs(table_of(space), space), params_costs(space)
    return tuple(Constraint(model, model.least + share * (model.most - model.least)) for model in (latency, params))


def additive_truth(space, choices, seed=1):
    draw = np.random.default_rng(seed)
    gains = [draw.normal(0, 0.01, len(layer.blocks)) for layer in space.layers]
    return 0.7 + np.array([sum(g[i] for g, i in zip(gains, row, strict=True)) for row in choices])


def test_features_do_not_depend_on_the_company_and_vary_by_one():
    features, choices = ArchFeatures(MINI), random_choices(MINI, 4000)
    described = features.of(choices)
    for table in (described.fields, described.totals, described.sizes, described.log_sizes):
        assert np.allclose(table.mean(axis=0), 0, atol=0.1) and np.allclose(table.std(axis=0), 1, atol=0.1)
    assert described.fields.shape[1] == 4 * len(MINI.layers), "all but squeeze-and-excitation, which no block has"
    for table, alone in zip(described.arrays, features.of(choices[7:8]).arrays, strict=True):
        assert np.allclose(table[7:8], alone)


def test_kernels_are_covariances_of_variance_one():
    archs = ArchFeatures(MINI).of(random_choices(MINI, 200))
    whole = covariances(archs, archs)
    for name, matrix, own in zip((k.name for k in KERNELS), whole, variances(archs), strict=True):
        assert np.allclose(np.diag(matrix), own, atol=1e-6) and own.mean() == pytest.approx(1, abs=0.15), name
        assert np.linalg.eigvalsh(matrix).min() > -1e-6, name


def test_the_fit_follows_its_gradient():
    draw, archs = np.random.default_rng(0), ArchFeatures(MINI).of(random_choices(MINI, 30))
    model, sources, values = AccuracyModel(3), np.arange(30) % 3, draw.normal(size=30)
    vector, inside = model._prior + draw.normal(0, 0.3, len(model._prior)), covariances(archs, archs)
    _, gradient = model._loss(vector, inside, values, sources)
    for number, step in enumerate(1e-5 * np.eye(len(vector))):
        ends = [model._loss(vector + sign * step, inside, values, sources)[0] for sign in (1, -1)]
        assert gradient[number] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5)


def test_what_lies_behind_noisy_trainings_is_learned_and_the_noise_is_estimated():
    choices = random_choices(MINI, 400)
    truth, features = additive_truth(MINI, choices), ArchFeatures(MINI)
    noise = 0.5 * truth.std()
    noisy = truth + np.random.default_rng(2).normal(0, noise, len(truth))
    model = AccuracyModel()
    posterior = model.fit(observed(features.of(choices[:100]), noisy[:100]))
    expected, deviation = posterior.predict(features.of(choices[100:]))
    assert np.corrcoef(expected, truth[100:])[0, 1] > 0.85
    assert 0.5 * noise < math.sqrt(posterior.settings.noise[0]) * posterior.scale < 1.6 * noise
    away = (expected - truth[100:]) / deviation
    assert 0.5 < away.std() < 1.6, "the uncertainty is neither bragging nor timid"


def test_the_additive_part_is_the_whole_of_a_linear_posterior():
    features, choices = ArchFeatures(MINI), random_choices(MINI, 60)
    model = AccuracyModel()
    model._fitted, model._vector = 10**6, model._vector.copy()
    model._vector[len(LINEAR) :] = -60.0  # nothing else, and no noise
    posterior = model.fit(observed(features.of(choices[:40]), additive_truth(MINI, choices[:40])))
    cells = posterior.additive_cells(features)
    sums = np.array([sum(row[i] for row, i in zip(cells, choice, strict=True)) for choice in choices])
    expected, _ = posterior.predict(features.of(choices))
    assert np.allclose(expected - expected.mean(), sums - sums.mean(), atol=1e-9)


@pytest.mark.parametrize("useful", [True, False])
def test_a_second_source_counts_as_far_as_the_trainings_bear_it_out(useful):
    choices, features = random_choices(MINI, 330), ArchFeatures(MINI)
    truth = additive_truth(MINI, choices)
    hint = 3 * truth + 0.2 if useful else additive_truth(MINI, choices, seed=5)
    archs, trained, hinted = features.of(choices), np.arange(30), np.arange(130)
    own = Observations(archs.take(trained), truth[trained], np.zeros(30, dtype=np.int64))
    both = own.joined(Observations(archs.take(hinted), hint[hinted], np.ones(130, dtype=np.int64)))
    unseen, correlations = archs.take(np.arange(130, 330)), []
    posteriors = AccuracyModel(1).fit(own), AccuracyModel(2).fit(both)
    for posterior in posteriors:
        correlations.append(np.corrcoef(posterior.predict(unseen)[0], truth[130:])[0, 1])
    if useful:
        assert posteriors[1].settings.correlations[1] > 0.8 and correlations[1] > correlations[0] + 0.02
    else:
        assert abs(posteriors[1].settings.correlations[1]) < 0.5 and correlations[1] > correlations[0] - 0.1


def test_archs_that_compute_the_same_are_one(tiny_space):
    for space in (MINI, load_space("fbnet")):
        canonical = Canonical(space, [macs_costs(space), params_costs(space)])
        choices = random_choices(space, 300)
        moved = canonical.of(choices)
        for model in (macs_costs(space), params_costs(space)):
            assert all(model.value(a) == model.value(b) for a, b in zip(choices, moved, strict=True))
        computed = []
        for rows in (choices, moved):
            blocks = [[layer.blocks[i] for layer, i in zip(space.layers, row, strict=True)] for row in rows]
            cells = [[layer.part(b) for layer, b in zip(space.layers, row, strict=True)] for row in blocks]
            computed.append([[part for part in row if part is not None] for row in cells])
        assert computed[0] == computed[1], "the same parts in the same order"
        assert np.array_equal(canonical.of(moved), moved)
    assert len(np.unique(moved, axis=0)) > 250
    uneven = macs_costs(MINI)
    cells = [[cell + 0.5 * layer for cell in row] for layer, row in enumerate(uneven.cells)]
    object.__setattr__(uneven, "cells", tuple(map(tuple, cells)))
    assert not Canonical(MINI, [uneven]).runs, "where places differ in cost, they are not exchanged"


def test_the_best_archs_are_solved_for_exactly(tiny_space):
    constraints, draw = constraints_of(tiny_space), np.random.default_rng(0)
    widths = [len(layer.blocks) for layer in tiny_space.layers]
    for trial in range(3):
        cells = [draw.normal(size=width).tolist() for width in widths]
        tables = [draw.normal(size=size).tolist() for size in itertools.pairwise(widths)]
        for pairs in ((), tables):

            def total(choice, cells=cells, pairs=pairs):
                beside = sum(t[a][b] for t, (a, b) in zip(pairs, itertools.pairwise(choice), strict=False))
                return beside + sum(row[i] for row, i in zip(cells, choice, strict=True))

            whole = [c for c in np.ndindex(*widths) if all(limit.met(c) for limit in constraints)]
            expected = sorted(whole, key=total)[:5]
            assert least_choices(cells, constraints, 5, pairs) == expected, trial
            assert least_choice(cells, constraints, pairs) == expected[0]
    assert len(least_choices(cells, constraints, 10**6)) == len(whole), "it ends where there are no more"


def test_candidates_are_all_archs_of_a_small_space_within_all_bounds(tiny_space):
    constraints = constraints_of(tiny_space)
    candidates = Candidates(tiny_space, constraints)
    widths = [len(layer.blocks) for layer in tiny_space.layers]
    fitting = [c for c in np.ndindex(*widths) if all(limit.met(c) for limit in constraints)]
    assert candidates.all_enumerated
    every = {tuple(row) for row in candidates.enumerate().tolist()}
    assert every == {tuple(row) for row in candidates.canonical(np.array(fitting)).tolist()} and every <= set(fitting)
    near = candidates.near(fitting[0], np.random.default_rng(0))
    assert len(near) and all(sum(a != b for a, b in zip(row, fitting[0], strict=True)) <= 4 for row in near.tolist())


def optimiser_of(space, hints=()):
    constraints = constraints_of(space)
    drawn = Candidates(space, constraints).fitting(random_choices(space, 400))
    return ArchOptimiser(space, constraints, [tuple(row) for row in drawn.tolist()], seed=0, hints=hints), constraints


def test_the_first_archs_are_spread_and_differ_from_those_that_are_trained_anyway():
    optimiser, constraints = optimiser_of(MINI)
    liked = optimiser.first(24)[:2]
    first = optimiser.first(24, liked)
    assert len(first) == 6 and len({*first, *liked}) == 8
    assert all(limit.met(choice) for choice in first for limit in constraints)
    apart = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in itertools.combinations([*first, *liked], 2)]
    assert min(apart) >= 4
    assert len(optimiser.first(1)) == 1 and len(optimiser.first(4)) == 1


@pytest.mark.parametrize("space", [MINI, load_space("fbnet")], ids=lambda space: space.name)
def test_suggestions_are_new_differ_keep_the_bounds_and_are_repeatable(space):
    optimiser, constraints = optimiser_of(space)
    choices = optimiser.first(24)
    trained = list(zip(choices, additive_truth(space, choices).tolist(), strict=True))
    suggested = optimiser.suggest(trained, 3)
    assert len({*suggested, *choices}) == len(trained) + 3
    assert all(limit.met(choice) for choice in suggested for limit in constraints)
    assert optimiser_of(space)[0].suggest(trained, 3) == suggested
    judged = optimiser.judge(trained, suggested)
    assert [j.choice for j in judged] == suggested
    assert all(0 <= j.accuracy <= 1 and j.deviation > 0 for j in judged)


def test_it_ends_where_the_space_has_no_more(tiny_space):
    optimiser, _ = optimiser_of(tiny_space)
    trained = [(choice, 0.5) for choice in optimiser.first(24)]
    for _ in range(200):
        more = optimiser.suggest(trained, 40)
        trained += [(choice, 0.5) for choice in more]
        if not more:
            break
    assert not more and len({choice for choice, _ in trained}) == len(trained)


def test_an_arch_that_may_be_the_best_is_trained_again_as_far_as_trainings_are_noisy():
    optimiser, _ = optimiser_of(MINI)
    choices, noise = optimiser.first(24), np.random.default_rng(3)
    repeats = []
    for size in (0.0, 0.02):
        trained = []
        for number in range(60):
            choice = choices[number] if number < len(choices) else optimiser.suggest(trained, 1, repeat=True)[0]
            accuracy = additive_truth(MINI, [choice])[0] + size * noise.normal()
            trained.append((choice, float(accuracy)))
        repeats.append(len(trained) - len({choice for choice, _ in trained}))
        optimiser, _ = optimiser_of(MINI)
    assert repeats[0] < repeats[1] > 3
