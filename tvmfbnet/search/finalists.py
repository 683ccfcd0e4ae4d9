"""The last choice, made by training: a few archs are trained briefly from scratch, and the best one wins.

A supernet's weights serve all archs at once, and an arch's accuracy with them says little about which of several
archs of one latency learns best by itself. A short training says far more, though each one is noisy. So archs are
trained one after another, each chosen by an accuracy predictor that knows all trainings so far and what the supernet
says, as far as the trainings bear it out (:mod:`tvmfbnet.search.predictor`). The winner is the trained arch with the
best expected accuracy, which averages the noise of the trainings.

With several rungs (:mod:`tvmfbnet.search.rungs`) each rung's archs are those of the rung before it, and the shorter
trainings are a further source for the predictor.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.progress import progress
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import Choice, CostModel
from tvmfbnet.search.derive import ScoredArch, choice_of, propose
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.predictor.optimiser import ArchOptimiser, History
from tvmfbnet.search.predictor.trainings import evaluate_choices, expected_archs
from tvmfbnet.search.rungs import FACTOR, FINALISTS_FILE, SHORTER_FILES, Rung, rungs_of
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
        folder: where the trainings' accuracies are kept; what it holds of this very search is not trained again.
    """

    def __init__(
        self,
        searcher: Searcher,
        latency: CostModel,
        constraints: Sequence[Constraint],
        identity: dict[str, Any],
        folder: Path,
    ) -> None:
        self._searcher, self._latency, self._constraints = searcher, latency, constraints
        self._identity, self._folder = identity, folder

    def choose(self, favourites: Sequence[ScoredArch]) -> list[ScoredArch]:
        """The archs that were trained longest, best first, with the accuracy that is expected of each.

        Args:
            favourites: with their accuracy by the supernet's weights, best first; some are among the first trained.

        Raises:
            StorageError: a file of accuracies is damaged.
        """
        space, seed = self._searcher.space, self._searcher.config.seed
        rungs = rungs_of(self._searcher.config)
        pool = [choice_of(candidate.arch, space) for candidate in self._pool()]
        hints: list[dict[Choice, float]] = [
            {choice_of(c.arch, space): c.accuracy for c in favourites if c.accuracy is not None}
        ]
        optimiser = ArchOptimiser(space, self._constraints, pool, seed, hints=hints)
        proposed = self._first(optimiser, favourites, rungs[0].archs)
        trainings = self._trained(optimiser, proposed, rungs, 0)
        for number in range(1, len(rungs)):
            ranked = [choice_of(candidate.arch, space) for candidate in self._expected(optimiser, trainings)]
            hints.append({choice: statistics.mean(a for c, a in trainings if c == choice) for choice in ranked})
            optimiser = ArchOptimiser(space, self._constraints, ranked, seed, hints=hints, only_drawn=True)
            proposed = ranked[: math.ceil(rungs[number].archs / FACTOR)]
            trainings = self._trained(optimiser, proposed, rungs, number)
        return self._expected(optimiser, trainings)

    def _expected(self, optimiser: ArchOptimiser, trainings: History) -> list[ScoredArch]:
        space = self._searcher.space
        return expected_archs(optimiser, trainings, self._theta(), space, self._latency, self._constraints)

    def _first(self, optimiser: ArchOptimiser, favourites: Sequence[ScoredArch], count: int) -> list[Choice]:
        """Archs that are trained before the predictor is asked."""
        liked = [choice_of(candidate.arch, self._searcher.space) for candidate in favourites]
        first = optimiser.distinct(liked)[: min(_FAVOURITES, math.ceil(count / 4))]
        return [*first, *optimiser.first(count, first)]

    def _trained(
        self, optimiser: ArchOptimiser, proposed: list[Choice], rungs: Sequence[Rung], number: int
    ) -> list[tuple[Choice, float]]:
        """The trainings of a rung, those of ``proposed`` first; after a shorter rung an arch may be trained again."""
        space, rung = self._searcher.space, rungs[number]
        what = "training finalists" + (f", rung {number + 1} of {len(rungs)}" if len(rungs) > 1 else "")
        trainings: list[tuple[Choice, float]] = []
        with progress(what, rung.all_steps) as reporter:
            evaluator = self._evaluator(rung, len(rungs) - 1 - number)
            meter = Meter(evaluator, rung.archs * evaluator.images, reporter)
            while proposed:
                trainings += evaluate_choices(proposed, {choice for choice, _ in trainings}, meter, space)
                count = min(meter.affordable, meter.together)
                proposed = optimiser.suggest(trainings, count, repeat=number > 0) if count else []
        return trainings

    def _evaluator(self, rung: Rung, rungs_above: int) -> ShortTraining:
        searcher, config = self._searcher, self._searcher.config
        indices = (searcher.weight_indices, searcher.theta_indices[: config.validation_images])
        file = self._folder / (SHORTER_FILES[rungs_above - 1] if rungs_above else FINALISTS_FILE)
        return ShortTraining(
            *(searcher.space, searcher.data, indices, config, searcher.workers, self._identity, file),
            steps=rung.steps,
            start=searcher.judged_supernet.extract if config.finalist_start == "supernet" else None,
        )

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
