"""Archs judged by short trainings from scratch: noisy, and far more telling than shared weights."""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.errors import ConfigError
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.evaluator import whole_evaluations
from tvmfbnet.search.plan import BACKWARD, SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.short_training import ShortTraining


class ShortTrainings:
    """Trains every arch for ``finalist_steps``."""

    name = "short_training"
    does = "training archs"

    def prepared_images(self, config: SearchConfig, images: int, budget_images: float) -> float:
        """Nothing."""
        return 0.0

    def plan(self, config: SearchConfig, images: int, budget_images: float, done: int = 0) -> SearchPlan:
        """As many trainings as the budget pays for."""
        steps, judged = _steps(config, images, budget_images), _judged(config, images)
        batch = SearchPlan.of(config, images).batch
        count = whole_evaluations(budget_images, steps * batch + judged / BACKWARD) - done
        return SearchPlan(0, 0, 0, count * steps, count * judged, batch)

    def prepare(self, problem: SearchProblem, budget_images: float) -> None:
        """There is nothing to prepare."""

    def open(self, problem: SearchProblem, budget_images: float, file: Path, keep: bool = True) -> ShortTraining:
        """Trainings of as many steps as the settings say, or fewer where not even one training is affordable."""
        steps = _steps(problem.config, len(problem.data.train), budget_images)
        return ShortTraining.of(problem, file, steps, keep)


EVALUATOR = ShortTrainings()


def _steps(config: SearchConfig, images: int, budget_images: float) -> int:
    """Steps of one training: fewer than set where not even one is affordable.

    Raises:
        ConfigError: the budget does not allow a single step.
    """
    for_trainings = budget_images - _judged(config, images) / BACKWARD
    steps = min(config.finalist_steps, int(for_trainings / SearchPlan.of(config, images).batch))
    if steps < 1:
        raise ConfigError(
            "search settings",
            [f"a budget of {budget_images:,.0f} images is too small to train one arch; raise budget_images or epochs"],
        )
    return steps


def _judged(config: SearchConfig, images: int) -> int:
    """Images that one arch is judged on."""
    used = min(images, config.train_images or images)
    return min(used - round(used * config.weight_share), config.validation_images or used)
