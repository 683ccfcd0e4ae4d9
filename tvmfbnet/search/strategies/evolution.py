"""Regularised evolution (Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search").

The population is a queue: a tournament among some of its members names a parent, its mutated child joins, and the
oldest member leaves, however good it is. So an arch whose accuracy was overrated for noise does not stay for ever.
"""

from __future__ import annotations

import math
import random
from collections import deque

from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.strategies.evaluating import ArchProblem, EvaluatingStrategy
from tvmfbnet.search.strategies.trials import Trials

# The paper's 100 members and tournaments of 25 are for 20,000 evaluations.
_MOST_MEMBERS, _TOURNAMENT_SHARE = 100, 0.5


class Evolution(EvaluatingStrategy):
    """Spends a part of the budget on random archs, and all else on mutations of the best of recent ones."""

    name = "evolution"

    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """All archs that were evaluated."""
        trials, generator = Trials(problem), random.Random(problem.seed)
        members = members_for(trials.left)
        tournament = max(2, round(_TOURNAMENT_SHARE * members))
        first = trials.take_random(min(members, trials.left))
        population = deque(zip(trials.evaluate(first), first, strict=True), maxlen=members)
        while trials.left and population:
            children = []
            for _ in range(trials.together):
                entrants = generator.sample(list(population), min(tournament, len(population)))
                child = trials.take_mutated(max(entrants)[1], generator)
                children += trials.take_random(1) if child is None else [child]
            if not children:
                break
            population.extend(zip(trials.evaluate(children), children, strict=True))
        return trials.ranked()


def members_for(evaluations: int) -> int:
    """How large a population suits a number of evaluations: 10 for 24, 14 for 48, 28 for 200, at most 100."""
    return min(_MOST_MEMBERS, max(2, round(2 * math.sqrt(evaluations))))


STRATEGY = Evolution()
