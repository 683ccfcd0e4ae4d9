"""The last choice, made by training: a few archs are trained briefly from scratch, and the best one wins.

A supernet's weights serve all archs at once, and an arch's accuracy with them says little about which of several
archs of one latency learns best by itself. A short training says far more, though each one is noisy. So archs are
trained in rounds. After each round a linear model is fitted to their accuracies (ridge regression: Bishop 2006,
section 3.3), and the next round takes those archs near a bound that it expects most of. The winner is the one
that the model and its own training together think best of, as the model averages the noise of the trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tvmfbnet.progress import progress
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import CostModel
from tvmfbnet.search.derive import ScoredArch, propose
from tvmfbnet.search.draw import log_probability
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.search.short_training import ShortTraining
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.blocks import SKIP, block_features
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.space import Space

# Archs that the model chooses the next round from.
POOL = 1000
ROUNDS = 4
# Relative spread of a feature that is mere rounding.
_SAME = 1e-9


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
        self._trainings = ShortTraining(
            searcher.space, searcher.data, indices, config, searcher.workers, identity, file
        )

    def choose(self, favourites: Sequence[ScoredArch]) -> list[ScoredArch]:
        """The trained archs, best first, with the accuracy that training and model together give them.

        The first round trains some of the supernet's favourites and as many archs of the pool.
        """
        count, space = self._searcher.config.finalists, self._searcher.space
        share = math.ceil(count / ROUNDS)
        pool = self._pool()
        drawn = [c for c in pool if c.arch not in {f.arch for f in favourites}]
        by_arch = {candidate.arch: candidate for candidate in [*pool, *favourites]}
        features = dict(zip(by_arch, features_of([parse_arch(arch, space) for arch in by_arch], space), strict=True))
        trained: list[str] = []
        chosen = [c.arch for c in [*favourites[: share // 2], *drawn][:share]]
        steps, best = self._searcher.config.finalist_steps, ""
        with progress("training finalists", count * steps) as reporter:
            while chosen:
                for start in range(0, len(chosen), self._searcher.workers.size):
                    together = chosen[start : start + self._searcher.workers.size]
                    self._trainings.evaluate(together, lambda: reporter.advance(note=best))  # noqa: B023
                    trained += together
                    best = f"best {max(self._trainings.accuracies[arch] for arch in trained):.1%}"
                    reporter.update(len(trained) * steps, best)
                expected = self._expected(trained, features)
                others = sorted((arch for arch in by_arch if arch not in trained), key=lambda a: -expected[a])
                chosen = others[: min(share, count - len(trained))]
        accuracies = self._trainings.accuracies
        finalists = [replace(by_arch[arch], accuracy=(accuracies[arch] + expected[arch]) / 2) for arch in trained]
        return sorted(finalists, key=lambda c: (-(c.accuracy or 0.0), c.predicted_ms))

    def _pool(self) -> list[ScoredArch]:
        """Archs within the constraints in random order: half as theta draws them, half with equal probability."""
        config, space = self._searcher.config, self._searcher.space
        generator = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            theta = self._searcher.supernet.log_probabilities().cpu()
        uniform = torch.zeros_like(theta).masked_fill(theta.isneginf(), float("-inf")).log_softmax(dim=1)
        limits = (self._latency, self._constraints, POOL // 2, generator, config.target_tolerance)
        proposed = {c.arch: c for logs in (uniform, theta) for c in propose(logs, space, *limits)}
        rows = theta.double().tolist()
        pool = []
        for index in torch.randperm(len(proposed), generator=generator).tolist():
            candidate = list(proposed.values())[index]
            choice = tuple(self._searcher.supernet.choice_of(parse_arch(candidate.arch, space)))
            pool.append(replace(candidate, probability=math.exp(log_probability(rows, choice))))
        return pool

    def _expected(self, trained: Sequence[str], features: dict[str, NDArray[np.float64]]) -> dict[str, float]:
        inputs = np.stack([features[arch] for arch in trained])
        model = ridge(inputs, np.array([self._trainings.accuracies[arch] for arch in trained]))
        return dict(zip(features, model(np.stack(list(features.values()))).tolist(), strict=True))


def features_of(archs: Sequence[Arch], space: Space) -> NDArray[np.float64]:
    """The model's features of archs, (archs, features), each feature with mean 0 and deviation 1.

    For the whole net the logarithms of parameters and MACs and the depth; for each layer whether it is skipped, the
    logarithms of its block's expansion and groups, its kernel, and whether it has squeeze-and-excitation.
    """
    rows = []
    for arch in archs:
        counts = count_arch(arch, space)
        row = [math.log(counts.params), math.log(counts.macs), float(sum(block != SKIP for block in arch.blocks))]
        for block in arch.blocks:
            row += block_features(block)
        rows.append(row)
    table = np.array(rows)
    spread = table.std(axis=0)
    differs = spread > _SAME * np.abs(table).max(axis=0)
    return np.asarray(np.where(differs, table - table.mean(axis=0), 0.0) / np.where(differs, spread, 1.0))


def ridge(
    inputs: NDArray[np.float64], outputs: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """A linear model of noisy outputs, as a function of more inputs.

    Its prior says that all features together move the output as much as noise does.
    """
    mean = outputs.mean()
    weight = float(inputs.shape[1])
    kernel = inputs @ inputs.T + weight * np.eye(len(inputs))
    solved = np.linalg.solve(kernel, outputs - mean)
    return lambda more: mean + more @ inputs.T @ solved
