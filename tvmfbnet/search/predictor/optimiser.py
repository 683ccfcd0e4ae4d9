"""Bayesian optimisation of archs: which ones to train next, and what to think of all that were trained.

The first archs fill the space between the bounds evenly, so that no kind of net, such as small ones that learn fast,
captures the predictor. For each further training the question is how much it is expected to improve the choice in the
end: the knowledge gradient of independent beliefs (Frazier et al. 2008), which is expected improvement where trainings
have no noise. A further training of an arch that may be the best one, with another seed, competes with trainings of new
archs. Several at once are chosen one after another, each as if those before it had come out as expected (the kriging
believer: Ginsbourger et al. 2010), so that they differ.

What is exact: a space of at most :data:`~tvmfbnet.search.predictor.candidates.ENUMERATED` archs is looked through
whole. In a larger one, the archs that are best by the additive part of the predictor are solved for under all additive
constraints, and join those that were drawn and those near the best; the whole predictor decides among all of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.predictor.candidates import Candidates
from tvmfbnet.search.predictor.features import ArchFeatures, Choices, Described, Table, as_choices
from tvmfbnet.search.predictor.kernels import covariances
from tvmfbnet.search.predictor.model import AccuracyModel, Observations, Posterior, observed
from tvmfbnet.space.space import Space

# Archs that are trained before the predictor is asked, and the largest share of all.
FIRST, _FIRST_SHARE = 8, 0.34
History = Sequence[tuple[Choice, float]]
"""Trainings in their order: archs, repeated ones included, and the accuracies that they reached."""

# Candidates with the best expected accuracy that are compared by what their training may improve.
_LOOKED_AT = 1500
# How many archs are solved for, and near how many of the best ones others are looked for.
_SOLVED, _CENTRES = 2, 3
# How often archs near the most promising ones are looked at.
_CLIMBS = 3


@dataclass(frozen=True)
class Judged:
    """What is to be thought of an arch.

    Attributes:
        choice: the arch.
        accuracy: expected, between 0 and 1.
        deviation: standard deviation of that.
    """

    choice: Choice
    accuracy: float
    deviation: float


class ArchOptimiser:
    """Proposes archs and judges them; the same questions always get the same answers.

    Args:
        space: the space.
        constraints: what every arch must meet.
        drawn: random archs within the constraints, where the first ones are taken from and, in a large space, all.
        seed: of everything random.
        sizes: what an arch's size is (:class:`~tvmfbnet.search.predictor.features.ArchFeatures`).
        hints: from further sources, such as a supernet or shorter trainings, the accuracies of some archs each.
        only_drawn: there are no other archs than those drawn.
    """

    def __init__(
        self,
        space: Space,
        constraints: Sequence[Constraint],
        drawn: Sequence[Choice],
        seed: int,
        sizes: Sequence[AdditiveCosts] | None = None,
        hints: Sequence[Mapping[Choice, float]] = (),
        only_drawn: bool = False,
    ) -> None:
        self._features, self._candidates = ArchFeatures(space, sizes), Candidates(space, constraints)
        self._seed = seed
        self._drawn = as_choices(drawn) if only_drawn else self._candidates.fitting(drawn)
        every = self._candidates.all_enumerated and not only_drawn
        self._pool = _Pool(self._features, self._candidates.enumerate() if every else self._drawn)
        self._pool_is_all = every or only_drawn
        self._hints = [hint for hint in hints if hint]
        self._model = AccuracyModel(1 + len(self._hints))

    def distinct(self, archs: Sequence[Choice]) -> list[Choice]:
        """The archs in the form that is proposed, those that compute what an earlier one does left out."""
        rows: list[list[int]] = self._candidates.canonical(as_choices(archs)).tolist() if archs else []
        return list(dict.fromkeys(tuple(row) for row in rows))

    def first(self, total: int, besides: Sequence[Choice] = ()) -> list[Choice]:
        """Archs that fill the space between the bounds evenly, the first ones of ``total`` trainings.

        Args:
            total: trainings of the whole search.
            besides: archs that are trained anyway, among the first ones.
        """
        count = min(FIRST, max(1, round(_FIRST_SHARE * total)), len(self._drawn)) - len(besides)
        draw = np.random.default_rng(self._seed)
        fields = self._features.of(self._drawn).fields
        rows: list[int] = [
            int(row) for choice in besides for row in np.flatnonzero((self._drawn == choice).all(axis=1))
        ]
        centres = [self._features.of(np.array([choice])).fields[0] for choice in besides]
        chosen: list[int] = []
        distance = np.full(len(self._drawn), np.inf)
        for centre in centres:
            distance = np.minimum(distance, ((fields - centre) ** 2).sum(axis=1))
        for _ in range(count):
            distance[rows + chosen] = -1.0
            index = int(draw.integers(len(self._drawn))) if np.isinf(distance).any() else int(distance.argmax())
            chosen.append(index)
            distance = np.minimum(distance, ((fields - fields[index]) ** 2).sum(axis=1))
        return [tuple(self._drawn[index].tolist()) for index in chosen]

    def suggest(self, trainings: History, count: int, repeat: bool = False) -> list[Choice]:
        """The next archs to train, at most ``count``; fewer where the space has no more.

        Args:
            trainings: every training so far, in order; at least one.
            count: how many.
            repeat: an arch may be trained again.
        """
        posterior, believed = self._posterior(trainings), list(trainings)
        more = self._larger_space(trainings, posterior)
        while len(believed) < len(trainings) + count:
            distinct = list(dict.fromkeys(choice for choice, _ in believed))
            rivals = _Rivals.of(self._judged(posterior, distinct))
            options = [self._pool.options(posterior, rivals)]
            if len(more):
                options.append(_options(more, posterior, self._features.of(more), None, rivals))
                options += self._climbed(options, posterior, rivals, len(believed))
            choice = _most_promising(options, set() if repeat else set(distinct))
            if choice is None:
                break
            believed.append((choice, self._judged(posterior, [choice])[0].accuracy))
            if len(believed) < len(trainings) + count:
                posterior = self._model.posterior(self._observations(believed))
        return [choice for choice, _ in believed[len(trainings) :]]

    def judge(self, trainings: History, archs: Sequence[Choice]) -> list[Judged]:
        """What is to be thought of archs, given what was trained."""
        return self._judged(self._posterior(trainings), archs)

    def _posterior(self, trainings: History) -> Posterior:
        return self._model.fit(self._observations(trainings))

    def _observations(self, trainings: History) -> Observations:
        joined = self._observed(trainings, 0)
        for source, hint in enumerate(self._hints, start=1):
            joined = self._observed(list(hint.items()), source).joined(joined)
        return joined

    def _observed(self, accuracies: History, source: int) -> Observations:
        archs = self._features.of(as_choices(choice for choice, _ in accuracies))
        return observed(archs, np.array([accuracy for _, accuracy in accuracies]), source)

    def _judged(self, posterior: Posterior, archs: Sequence[Choice]) -> list[Judged]:
        if not archs:
            return []
        expected, deviation = posterior.predict(self._features.of(as_choices(archs)))
        rows = zip(archs, expected.tolist(), deviation.tolist(), strict=True)
        return [Judged(choice, min(1.0, max(0.0, accuracy)), spread) for choice, accuracy, spread in rows]

    def _climbed(
        self, options: Sequence[_Options], posterior: Posterior, rivals: _Rivals, number: int
    ) -> list[_Options]:
        """Archs near the most promising ones, then near the most promising of these, and so on."""
        draw, climbed = np.random.default_rng([self._seed, number, 1]), []
        centres = np.concatenate([option.top(_CENTRES) for option in options])
        for _ in range(_CLIMBS):
            near = self._candidates.fitting(
                np.concatenate([self._candidates.near(tuple(row.tolist()), draw) for row in centres])
            )
            climbed.append(_options(near, posterior, self._features.of(near), None, rivals))
            centres = climbed[-1].top(_CENTRES)
        return climbed

    def _larger_space(self, trainings: History, posterior: Posterior) -> Choices:
        """Where not every arch is in the pool: those that are best by the additive part, and those near the best."""
        if self._pool_is_all:
            return np.zeros((0, len(self._candidates.widths)), dtype=np.int64)
        draw = np.random.default_rng([self._seed, len(trainings)])
        solved = self._candidates.best_by(posterior.additive_cells(self._features), _SOLVED)
        distinct = list(dict.fromkeys(choice for choice, _ in trainings))
        judged = sorted(self._judged(posterior, distinct), key=lambda j: (-j.accuracy, j.choice))
        centres = [*(j.choice for j in judged[:_CENTRES]), *(tuple(row.tolist()) for row in solved[:1])]
        return self._candidates.fitting(np.concatenate([solved, *(self._candidates.near(c, draw) for c in centres)]))


@dataclass(frozen=True)
class _Rivals:
    """The trained arch with the best expected accuracy, and the accuracy of the next one."""

    best: Choice
    accuracy: float
    second: float

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> _Rivals:
        ranked = sorted(judged, key=lambda j: (-j.accuracy, j.choice))
        return cls(ranked[0].choice, ranked[0].accuracy, ranked[min(1, len(ranked) - 1)].accuracy)


@dataclass(frozen=True)
class _Options:
    """Archs, and how much a training of each is expected to improve the choice."""

    choices: Choices
    improvements: Table

    def top(self, count: int) -> Choices:
        """The most promising ones."""
        return self.choices[np.argsort(-self.improvements, kind="stable")[:count]]


def _most_promising(options: Sequence[_Options], taken: set[Choice]) -> Choice | None:
    """The arch whose training is expected to improve most, of those that were not taken."""
    choices = np.concatenate([option.choices for option in options])
    improvements = np.concatenate([option.improvements for option in options])
    for index in np.argsort(-improvements, kind="stable"):
        choice = tuple(choices[index].tolist())
        if choice not in taken:
            return choice
    return None


class _Pool:
    """Candidates that stay the same, with the kernels between them and the observed archs."""

    def __init__(self, features: ArchFeatures, choices: Choices) -> None:
        self._choices, self._archs = choices, features.of(choices)
        self._seen: Described | None = None
        self._across: Table = np.zeros((0, 0, 0))

    def options(self, posterior: Posterior, rivals: _Rivals) -> _Options:
        """Every candidate."""
        archs = posterior.observations.archs
        count = 0 if self._seen is None else len(self._seen)
        if self._seen is None or not np.array_equal(archs.blocks[:count], self._seen.blocks):
            self._across = covariances(self._archs, archs)
        elif len(archs) > count:
            new = covariances(self._archs, archs.take(np.arange(count, len(archs))))
            self._across = np.concatenate([self._across, new], axis=2)
        self._seen = archs
        return _options(self._choices, posterior, self._archs, self._across, rivals)


def _options(
    choices: Choices, posterior: Posterior, archs: Described, across: Table | None, rivals: _Rivals
) -> _Options:
    """Knowledge gradient (Frazier et al. 2008, eq. 10); of many archs, for those of the best expected accuracy."""
    across = covariances(archs, posterior.observations.archs) if across is None else across
    expected = posterior.expect(across)
    # Those that were trained may be among them: as many more are left.
    kept = np.argsort(-expected, kind="stable")[: _LOOKED_AT + len(posterior.observations.values)]
    variance = posterior.deviate(archs.take(kept), across[:, kept]) ** 2
    # How much one training with its noise is going to move the expected accuracy.
    moves = variance / np.sqrt(variance + posterior.noise**2)
    is_best = (choices[kept] == rivals.best).all(axis=1)
    ahead = np.where(is_best, rivals.second - expected[kept], expected[kept] - rivals.accuracy) / moves
    density = np.exp(-0.5 * ahead**2) / math.sqrt(2.0 * math.pi)
    return _Options(choices[kept], moves * (ahead * ndtr(ahead) + density))
