"""The last choice, made by training: a few archs are trained briefly from scratch, and the best one wins.

A supernet's weights serve all archs at once, and an arch's accuracy with them says little about which of several
archs of one latency learns best by itself. A short training says far more, though each one is noisy. So archs are
trained one after another, each chosen by an accuracy predictor that knows all trainings so far and what the supernet
says, as far as the trainings bear it out (:mod:`tvmfbnet.search.predictor`). The winner is the trained arch with the
best expected accuracy, which averages the noise of the trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.progress import progress
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import Choice, CostModel
from tvmfbnet.search.derive import ScoredArch, arch_string, best_first, choice_of, propose, score_choices
from tvmfbnet.search.predictor.optimiser import ArchOptimiser
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.short_training import ShortTraining

# Archs that are drawn for the predictor to choose from, and how many of the supernet's favourites are trained first.
POOL = 1000
_FAVOURITES = 3


class Finalists:
    """Trains archs and chooses among them.

    Args:
        searcher: a finished search.
        latency: of every arch, which may differ from the search's.
        constraints: what every finalist must meet.
        identity: of the search (:func:`tvmfbnet.training.identity.identity_of`).
        file: where the trainings' accuracies are kept; what it holds of this very search is not trained again.

    Raises:
        StorageError: the file is damaged.
    """

    def __init__(
        self,
        searcher: Searcher,
        latency: CostModel,
        constraints: Sequence[Constraint],
        identity: dict[str, Any],
        file: Path,
    ) -> None:
        self._searcher, self._latency, self._constraints = searcher, latency, constraints
        config = searcher.config
        indices = (searcher.weight_indices, searcher.theta_indices[: config.validation_images])
        start = searcher.judged_supernet.extract if config.finalist_start == "supernet" else None
        self._trainings = ShortTraining(
            searcher.space, searcher.data, indices, config, searcher.workers, identity, file, start=start
        )

    def choose(self, favourites: Sequence[ScoredArch]) -> list[ScoredArch]:
        """The trained archs, best first, with the accuracy that is expected of each.

        Args:
            favourites: with their accuracy by the supernet's weights, best first; some are among the first trained.
        """
        config, space = self._searcher.config, self._searcher.space
        count, steps = config.finalists, config.finalist_steps
        pool = self._pool()
        choices = [choice_of(candidate.arch, space) for candidate in pool]
        supernet = {choice_of(c.arch, space): c.accuracy for c in favourites if c.accuracy is not None}
        optimiser = ArchOptimiser(space, self._constraints, choices, config.seed, hints=[supernet])
        liked = [choice_of(candidate.arch, space) for candidate in favourites]
        first = optimiser.distinct(liked)[: min(_FAVOURITES, math.ceil(count / 4))]
        proposed = [*first, *optimiser.first(count, first)]
        trained: dict[Choice, float] = {}
        with progress("training finalists", count * steps) as reporter:
            while proposed:
                together = proposed[: self._searcher.workers.size]
                archs = {choice: arch_string(choice, space) for choice in together}
                best = f"best {max(trained.values()):.1%}" if trained else ""
                accuracies = self._trainings.evaluate(list(archs.values()), lambda: reporter.advance(note=best))  # noqa: B023
                trained.update({choice: accuracies[arch] for choice, arch in archs.items()})
                reporter.update(len(trained) * steps, f"best {max(trained.values()):.1%}")
                left = min(count - len(trained), self._searcher.workers.size)
                proposed = proposed[len(together) :] or (optimiser.suggest(list(trained.items()), left) if left else [])
        judged = {j.choice: j.accuracy for j in optimiser.judge(list(trained.items()), list(trained))}
        scored = score_choices(trained, self._theta(), space, self._latency, self._constraints)
        return best_first(replace(arch, accuracy=judged[choice_of(arch.arch, space)]) for arch in scored)

    def _theta(self) -> torch.Tensor:
        """Logarithms of the probabilities of all candidates."""
        with torch.no_grad():
            return self._searcher.supernet.log_probabilities().cpu()

    def _pool(self) -> list[ScoredArch]:
        """Archs within the constraints: half as theta draws them, half with equal probability."""
        config, space = self._searcher.config, self._searcher.space
        generator, theta = torch.Generator().manual_seed(config.seed), self._theta()
        uniform = torch.zeros_like(theta).masked_fill(theta.isneginf(), float("-inf")).log_softmax(dim=1)
        limits = (self._latency, self._constraints, POOL // 2, generator, config.target_tolerance)
        return [candidate for logs in (uniform, theta) for candidate in propose(logs, space, *limits)]
