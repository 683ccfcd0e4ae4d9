"""Random search: distinct random archs within the constraints, each trained briefly; the most accurate wins.

The baseline that every other strategy has to beat at an equal budget.
"""

from __future__ import annotations

from dataclasses import replace

from tvmfbnet.search.derive import ScoredArch, best_first
from tvmfbnet.search.strategies.evaluating import ArchProblem, EvaluatingStrategy


class RandomSearch(EvaluatingStrategy):
    """Spends the whole budget on random archs."""

    name = "random"

    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """All archs that were evaluated."""
        archs = problem.random_archs(problem.meter.affordable)
        accuracies = problem.meter.evaluate([candidate.arch for candidate in archs])
        return best_first(replace(candidate, accuracy=accuracies[candidate.arch]) for candidate in archs)


STRATEGY = RandomSearch()
