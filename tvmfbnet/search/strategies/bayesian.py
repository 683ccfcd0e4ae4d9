"""Bayesian optimisation: an accuracy predictor learns from every training and says which arch to train next.

What it proposes, and what it finds exactly: :mod:`tvmfbnet.search.predictor.optimiser`. The winner is the trained arch
with the best expected accuracy, which averages the noise of the trainings.
"""

from __future__ import annotations

from tvmfbnet.search.derive import ScoredArch, choice_of
from tvmfbnet.search.predictor.candidates import ENUMERATED
from tvmfbnet.search.predictor.optimiser import ArchOptimiser
from tvmfbnet.search.predictor.trainings import evaluate_choices, expected_archs
from tvmfbnet.search.strategies.evaluating import (
    ArchProblem,
    EvaluatingStrategy,
    uniform_log_probabilities,
)

# Random archs that the first ones are chosen from, and in a large space all others as well.
_FEW, _MANY = 200, 500


class BayesianSearch(EvaluatingStrategy):
    """Trains the arch whose training promises the best choice in the end, again and again."""

    name = "bayesian"

    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """All archs that were evaluated, now or before, with the accuracy that is expected of each."""
        space, meter = problem.space, problem.meter
        count = _FEW if space.size <= ENUMERATED else _MANY
        if problem.listed is not None:
            count = len(problem.listed)
        drawn = [choice_of(candidate.arch, space) for candidate in problem.random_archs(count)]
        optimiser = ArchOptimiser(
            space, problem.constraints, drawn, problem.seed, problem.sizes, only_drawn=problem.listed is not None
        )
        trainings = [(choice_of(arch, space), accuracy) for arch, accuracy in problem.evaluated.items()]
        proposed = [] if trainings else optimiser.first(meter.affordable)
        while meter.affordable:
            proposed = proposed or optimiser.suggest(trainings, min(meter.together, meter.affordable), meter.can_repeat)
            if not proposed:
                break
            trainings += evaluate_choices(proposed, {choice for choice, _ in trainings}, meter, space)
            proposed = []
        logs = uniform_log_probabilities(space)
        return expected_archs(optimiser, trainings, logs, space, problem.latency, problem.constraints)


STRATEGY = BayesianSearch()
