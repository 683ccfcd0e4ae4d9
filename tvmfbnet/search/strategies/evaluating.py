"""What strategies that judge whole archs share: evaluation by short trainings, budget, resume, choosing again.

A subclass says which archs to evaluate (:meth:`EvaluatingStrategy.rank`) and knows no images: with another evaluator
the same code searches a table of trained archs. It must be deterministic. Then a killed search resumes bit-equal: it
asks the same questions again, and those that were answered are read from ``evaluations.json``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.errors import ConfigError
from tvmfbnet.files import read_model
from tvmfbnet.progress import progress, resumed, say
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, CostModel
from tvmfbnet.search.derive import ScoredArch, choice_of, propose, score_choices
from tvmfbnet.search.evaluator import Meter, whole_evaluations
from tvmfbnet.search.forecast import say_forecast
from tvmfbnet.search.health import health_of
from tvmfbnet.search.losses import expected_cost
from tvmfbnet.search.plan import BACKWARD, SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.short_training import ShortTraining, Trained
from tvmfbnet.search.strategies.base import Outcome
from tvmfbnet.space.space import Space

# Share of the budget for choosing again.
_AGAIN = 0.25
# Archs that random ones are chosen from, and how far below a bound they are looked for at most.
_POOL, _WIDEST = 1000, 0.999


@dataclass(frozen=True)
class ArchProblem:
    """Which archs there are, what they must meet, and who tells how accurate they are.

    Attributes:
        space: what may be searched.
        latency: of every candidate.
        constraints: what every arch must meet.
        tolerance: how far below a bound archs are looked for, as a share of it.
        seed: of everything random.
        meter: evaluates archs within the budget.
    """

    space: Space
    latency: CostModel
    constraints: tuple[Constraint, ...]
    tolerance: float
    seed: int
    meter: Meter

    def random_archs(self, count: int) -> list[ScoredArch]:
        """Distinct archs within the constraints in random order, at most ``count``.

        All archs that some constraint nearly binds are equally likely. Where there are fewer than ``count`` of them,
        those further below the bounds follow.
        """
        generator, tolerance = torch.Generator().manual_seed(self.seed), self.tolerance
        logs = uniform_log_probabilities(self.space)
        chosen: dict[str, ScoredArch] = {}
        while True:
            samples = max(_POOL, 4 * count)
            limits = (self.latency, self.constraints, samples, generator, min(tolerance, _WIDEST))
            pool = propose(logs, self.space, *limits)
            for index in torch.randperm(len(pool), generator=generator).tolist():
                if len(chosen) < count:
                    chosen.setdefault(pool[index].arch, pool[index])
            if len(chosen) >= count or tolerance >= _WIDEST or not self.constraints:
                return list(chosen.values())
            tolerance *= 2


def uniform_log_probabilities(space: Space) -> torch.Tensor:
    """(layers, most candidates): every candidate of a layer equally likely, -inf where there is none."""
    widest = max(len(layer.blocks) for layer in space.layers)
    rows = [[0.0] * len(layer.blocks) + [float("-inf")] * (widest - len(layer.blocks)) for layer in space.layers]
    return torch.tensor(rows, dtype=torch.float64).log_softmax(dim=1)


class EvaluatingStrategy(ABC):
    """A strategy that judges whole archs, one by one."""

    name: str
    state_file = "evaluations.json"
    accuracy_label = "accuracy"

    @abstractmethod
    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """Archs within the constraints, each with its accuracy, best first; spends no more than the meter has."""

    def recorded_identity(self, path: Path) -> Mapping[str, Any] | None:
        """The identity in ``evaluations.json``."""
        return read_model(path, Trained).identity

    def plan(self, config: SearchConfig, images: int) -> SearchPlan:
        """As many short trainings as the budget allows."""
        budget, _ = _budget(config, images)
        return self._plan_of(config, images, whole_evaluations(budget, self._plan_of(config, images, 1).images))

    def _plan_of(self, config: SearchConfig, images: int, count: int) -> SearchPlan:
        """The plan of ``count`` evaluations."""
        (_, steps), judged = _budget(config, images), _judged(config, images)
        return SearchPlan(0, 0, 0, count * steps, count * judged, SearchPlan.of(config, images).batch)

    def search(self, problem: SearchProblem) -> Outcome:
        """Evaluates archs until the budget is spent, or there is no other one."""
        budget, evaluator = self._budget_and_evaluator(problem)
        count, done = Meter(evaluator, budget).affordable, len(evaluator.accuracies)
        problem.workers.require_equal("evaluations", done)
        if done:
            say(resumed("search", problem.out, done * evaluator.steps, count * evaluator.steps))
        if done < count:
            left = self._plan_of(problem.config, len(problem.data.train), count - done)
            say_forecast(problem.space, problem.data, problem.latency, problem.config, problem.workers, left)
        with progress("training archs", count * evaluator.steps) as reporter:
            meter = Meter(evaluator, budget, reporter)
            ranked = self.rank(_arch_problem(problem, problem.latency, problem.constraints, meter))
        logs, latency = uniform_log_probabilities(problem.space), problem.latency
        return Outcome(
            tuple(ranked),
            theta=[[0.0] * len(layer.blocks) for layer in problem.space.layers],
            expected_ms=float(expected_cost(logs.exp(), torch.tensor(latency.padded()), latency.fixed)),
            health=health_of(logs, problem.space, latency),
            learns_theta=False,
            spent_images=meter.spent_images,
        )

    def choose_again(
        self, problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...]
    ) -> list[ScoredArch]:
        """Ranks archs evaluated earlier that meet the constraints, and further ones for a quarter of the budget."""
        budget, evaluator = self._budget_and_evaluator(problem)
        evaluated = _described(evaluator.accuracies, problem.space, latency, constraints)
        budget = max(_AGAIN * budget, evaluator.images)
        with progress("training archs", Meter(evaluator, budget).affordable * evaluator.steps) as reporter:
            more = self.rank(_arch_problem(problem, latency, constraints, Meter(evaluator, budget, reporter)))
        return best_first({candidate.arch: candidate for candidate in [*evaluated, *more]}.values())

    def judge(self, problem: SearchProblem, archs: Sequence[ScoredArch]) -> list[ScoredArch]:
        """A short training for each arch that had none."""
        _, evaluator = self._budget_and_evaluator(problem, keep=False)
        with progress("training archs", len(archs) * evaluator.steps) as reporter:
            meter = Meter(evaluator, len(archs) * evaluator.images, reporter)
            accuracies = meter.evaluate([candidate.arch for candidate in archs])
        return [replace(candidate, accuracy=accuracies[candidate.arch]) for candidate in archs]

    def _budget_and_evaluator(self, problem: SearchProblem, keep: bool = True) -> tuple[float, ShortTraining]:
        budget, steps = _budget(problem.config, len(problem.data.train))
        evaluator = ShortTraining(
            problem.space,
            problem.data,
            problem.indices,
            problem.config,
            problem.workers,
            problem.identity,
            problem.out / self.state_file,
            steps,
            keep,
        )
        return budget, evaluator


def best_first(archs: Iterable[ScoredArch]) -> list[ScoredArch]:
    """Most accurate first; among equals the faster."""
    return sorted(archs, key=lambda candidate: (-(candidate.accuracy or 0.0), candidate.predicted_ms, candidate.arch))


def _arch_problem(
    problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...], meter: Meter
) -> ArchProblem:
    config = problem.config
    return ArchProblem(problem.space, latency, constraints, config.target_tolerance, config.seed, meter)


def _described(
    accuracies: Mapping[str, float], space: Space, latency: CostModel, constraints: Sequence[Constraint]
) -> list[ScoredArch]:
    """Those of evaluated archs that meet the constraints."""
    choices = {arch: choice_of(arch, space) for arch in accuracies}
    logs = uniform_log_probabilities(space)
    described = score_choices(choices.values(), logs, space, latency, constraints)
    return [replace(candidate, accuracy=accuracies[candidate.arch]) for candidate in described]


def _budget(config: SearchConfig, images: int) -> tuple[float, int]:
    """The budget in training images, and the steps of one training: fewer than set where not even one is affordable.

    Raises:
        ConfigError: the budget does not allow a single step.
    """
    plan = SearchPlan.of(config, images)
    budget = plan.images if config.budget_images is None else float(config.budget_images)
    for_trainings = budget - _judged(config, images) / BACKWARD
    steps = min(config.finalist_steps, int(for_trainings / plan.batch))
    if steps < 1:
        problem = f"a budget of {budget:,.0f} images is too small to train one arch; raise budget_images or epochs"
        raise ConfigError("search settings", [problem])
    return budget, steps


def _judged(config: SearchConfig, images: int) -> int:
    """Images that one arch is judged on."""
    used = min(images, config.train_images or images)
    return min(used - round(used * config.weight_share), config.validation_images or used)
