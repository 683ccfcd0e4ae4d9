"""What strategies that judge whole archs share: an evaluator, the budget, resume, choosing again.

A subclass says which archs to evaluate (:meth:`EvaluatingStrategy.rank`) and knows no images: with another evaluator
the same code searches a table of trained archs. It must be deterministic. Then a killed search resumes bit-equal: it
asks the same questions again, and those that were answered are read from ``evaluations.json``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.errors import ConfigError
from tvmfbnet.files import read_model
from tvmfbnet.progress import progress, resumed, say
from tvmfbnet.search.budget import budget_of, planned_budget
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, CostModel
from tvmfbnet.search.derive import ScoredArch, best_first, choice_of, propose, score_choices
from tvmfbnet.search.evaluator import Meter
from tvmfbnet.search.evaluators import evaluator_named
from tvmfbnet.search.forecast import say_forecast
from tvmfbnet.search.front.nets import front_bounds, require_enough
from tvmfbnet.search.front.shared_search import Front, search_front
from tvmfbnet.search.health import health_of
from tvmfbnet.search.losses import expected_cost
from tvmfbnet.search.plan import SearchPlan
from tvmfbnet.search.problem import SearchProblem
from tvmfbnet.search.short_training import Trained
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
        sizes: what a predictor of accuracy takes as an arch's size; parameters and MACs if None.
        evaluated: accuracies of archs that were evaluated before, at no cost now.
        listed: the only archs there are; None for all of the space.
    """

    space: Space
    latency: CostModel
    constraints: tuple[Constraint, ...]
    tolerance: float
    seed: int
    meter: Meter
    sizes: tuple[AdditiveCosts, ...] | None = None
    evaluated: Mapping[str, float] = field(default_factory=dict)
    listed: tuple[str, ...] | None = None

    def random_archs(self, count: int) -> list[ScoredArch]:
        """Distinct archs within the constraints in random order, at most ``count``.

        All archs that some constraint nearly binds are equally likely. Where there are fewer than ``count`` of them,
        those further below the bounds follow.
        """
        generator, tolerance = torch.Generator().manual_seed(self.seed), self.tolerance
        logs = uniform_log_probabilities(self.space)
        if self.listed is not None:
            choices = [choice_of(arch, self.space) for arch in self.listed]
            fitting = score_choices(choices, logs, self.space, self.latency, self.constraints)
            return [fitting[index] for index in torch.randperm(len(fitting), generator=generator)[:count].tolist()]
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
    extras: tuple[str, ...] = ()

    @abstractmethod
    def rank(self, problem: ArchProblem) -> list[ScoredArch]:
        """Archs within the constraints, each with its accuracy, best first; spends no more than the meter has."""

    def recorded_identity(self, path: Path) -> Mapping[str, Any] | None:
        """The identity in ``evaluations.json``."""
        return read_model(path, Trained).identity

    def plan(self, config: SearchConfig, images: int) -> SearchPlan:
        """As many evaluations as the budget allows, and what must come before them."""
        return evaluator_named(config.evaluator).plan(config, images, planned_budget(config, images))

    def search(self, problem: SearchProblem) -> Outcome:
        """Evaluates archs until the budget is spent, or there is no other one."""
        config, images, kind = problem.config, len(problem.data.train), evaluator_named(problem.config.evaluator)
        budget = budget_of(problem)
        prepared = kind.prepared_images(config, images, budget)
        kind.prepare(problem, budget)
        evaluator = kind.open(problem, budget, problem.out / self.state_file)
        count, done = Meter(evaluator, budget - prepared).affordable, len(evaluator.accuracies)
        if count < 1:
            raise ConfigError("search settings", [f"a budget of {budget:,.0f} images leaves none to judge an arch"])
        problem.workers.require_equal("evaluations", done)
        if done:
            say(resumed("search", problem.out, done * evaluator.steps, count * evaluator.steps))
        if done < count:
            left = replace(kind.plan(config, images, budget, done), warmup_steps=0)  # prepared by now
            say_forecast(problem.space, problem.data, problem.latency, config, problem.workers, left)
        with progress(kind.does, count * evaluator.steps) as reporter:
            meter = Meter(evaluator, budget - prepared, reporter)
            arch_problem = _arch_problem(problem, problem.latency, problem.constraints, meter)
            front = self._front(arch_problem, problem)
            ranked = self.rank(arch_problem) if front is None else front.ranked
        logs, latency = uniform_log_probabilities(problem.space), problem.latency
        return Outcome(
            tuple(ranked),
            theta=[[0.0] * len(layer.blocks) for layer in problem.space.layers],
            expected_ms=float(expected_cost(logs.exp(), torch.tensor(latency.padded()), latency.fixed)),
            health=health_of(logs, problem.space, latency),
            learns_theta=False,
            spent_images=prepared + meter.spent_images,
            front=() if front is None else front.nets,
        )

    def _front(self, arch_problem: ArchProblem, problem: SearchProblem) -> Front | None:
        """Searches a front where the settings ask for one.

        Raises:
            ConfigError: the budget allows fewer evaluations than the front has bounds.
        """
        if problem.config.front is None:
            return None
        bounds_ms = front_bounds(problem.latency, problem.constraints, problem.config.front)
        require_enough(arch_problem.meter.affordable, len(bounds_ms), "budget_images or epochs")
        return search_front(arch_problem, bounds_ms, self.rank, uniform_log_probabilities(problem.space))

    def choose_again(
        self, problem: SearchProblem, latency: AdditiveCosts, constraints: tuple[Constraint, ...]
    ) -> list[ScoredArch]:
        """Ranks archs evaluated earlier that meet the constraints, and further ones for a quarter of the budget."""
        kind, whole = evaluator_named(problem.config.evaluator), budget_of(problem)
        evaluator = kind.open(problem, whole, problem.out / self.state_file)
        evaluated = _described(evaluator.accuracies, problem.space, latency, constraints)
        prepared = kind.prepared_images(problem.config, len(problem.data.train), whole)
        budget = max(_AGAIN * (whole - prepared), evaluator.images)
        with progress(kind.does, Meter(evaluator, budget).affordable * evaluator.steps) as reporter:
            again = _arch_problem(problem, latency, constraints, Meter(evaluator, budget, reporter))
            more = self.rank(replace(again, evaluated=dict(evaluator.accuracies)))
        return best_first({candidate.arch: candidate for candidate in [*evaluated, *more]}.values())

    def judge(self, problem: SearchProblem, archs: Sequence[ScoredArch]) -> list[ScoredArch]:
        """An evaluation of each arch that had none."""
        kind = evaluator_named(problem.config.evaluator)
        evaluator = kind.open(problem, budget_of(problem, keep=False), problem.out / self.state_file, keep=False)
        with progress(kind.does, len(archs) * evaluator.steps) as reporter:
            meter = Meter(evaluator, len(archs) * evaluator.images, reporter)
            accuracies = meter.evaluate([candidate.arch for candidate in archs])
        return [replace(candidate, accuracy=accuracies[candidate.arch]) for candidate in archs]


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
