"""One search for all latency bounds of a front, with one budget and one model of accuracy. Knows no images.

A strategy first explores at every bound with half of the budget. The other half goes round the bounds: a model of
accuracy (:mod:`tvmfbnet.search.front.accuracy_model`) is fitted to all archs evaluated so far, whatever bound that was
for, and at each bound the arch with the largest expected improvement (Jones et al. 1998) on the net chosen there is
evaluated next. It is looked for among archs drawn near the bound and among single changes to the nets of all bounds.

The search is deterministic: the same answers lead to the same questions, so it resumes bit-equal from the answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtr

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.derive import ScoredArch, arch_string, best_first, choice_of, propose, score_choices
from tvmfbnet.search.front.accuracy_model import Expected, SharedModel
from tvmfbnet.search.front.nets import FrontNet, bounded, choose_front
from tvmfbnet.search.neighbours import single_changes
from tvmfbnet.search.predictor.features import Table

if TYPE_CHECKING:
    from tvmfbnet.search.strategies.evaluating import ArchProblem

Explore = Callable[["ArchProblem"], object]
"""Evaluates archs of a problem, as many as its meter allows: what a strategy does by itself."""

# Share of the budget that the strategy explores with.
_EXPLORED = 0.5
# Archs that are drawn near a bound, and how often the most promising ones are changed again.
_DRAWN, _CLIMBS, _CHANGED = 300, 2, 4


@dataclass(frozen=True)
class Front:
    """What a search for a front ends with.

    Attributes:
        nets: the front, fastest first.
        ranked: all evaluated archs within the constraints, most accurate first; accuracies are those that all
            evaluations together tell.
    """

    nets: tuple[FrontNet, ...]
    ranked: tuple[ScoredArch, ...]


def search_front(
    problem: ArchProblem, bounds_ms: Sequence[float], explore: Explore, log_probabilities: torch.Tensor
) -> Front:
    """Spends the budget on a front.

    Args:
        problem: its meter holds the whole budget, of at least one arch.
        bounds_ms: ascending latency bounds.
        explore: the strategy.
        log_probabilities: (layers, candidates), what archs near a bound are drawn from.
    """
    search = _Search(problem, bounds_ms, log_probabilities)
    search.explore(explore)
    while search.advance():
        pass
    return search.conclude()


class _Search:
    """The state of one search: all that is evaluated is in the problem's meter."""

    def __init__(self, problem: ArchProblem, bounds_ms: Sequence[float], log_probabilities: torch.Tensor) -> None:
        if not isinstance(problem.latency, AdditiveCosts):
            raise TypeError("a front needs latencies that add up over layers")
        self._problem, self._meter, self._latency = problem, problem.meter, problem.latency
        self._bounds_ms, self._logs = bounds_ms, log_probabilities
        self._constraints = [bounded(problem.constraints, self._latency, bound_ms) for bound_ms in bounds_ms]
        self._model = SharedModel(problem.space, problem.sizes)
        self._choices: dict[str, Choice] = {}

    def explore(self, explore: Explore) -> None:
        """Lets the strategy evaluate archs at every bound. The lowest comes first: its archs meet all other bounds.

        It starts afresh at each, so that what it learned of small nets does not capture its choice of large ones.
        """
        share = max(1, math.floor(_EXPLORED * self._meter.affordable / len(self._bounds_ms)))
        for constraints in self._constraints:
            archs = min(share, self._meter.affordable)
            if archs:
                explore(replace(self._problem, constraints=constraints, meter=self._meter.share(archs)))

    def advance(self) -> bool:
        """Evaluates at most one further arch per bound; False where the budget is spent or no other arch is left."""
        if not self._meter.affordable:
            return False
        evaluated = self._evaluated()
        expected = self._model.fit(evaluated)
        archs = list(evaluated)
        means, slowness = expected(archs).mean, [self._latency.value(choice) for choice in archs]
        incumbents: list[tuple[Choice, float]] = []
        for bound_ms in self._bounds_ms:
            fitting = [index for index, latency_ms in enumerate(slowness) if latency_ms <= bound_ms]
            best = max(fitting, key=lambda index: means[index], default=None)
            incumbents.append((archs[0], 0.0) if best is None else (archs[best], float(means[best])))
        next_archs: dict[Choice, float] = {}
        bounds = zip(self._constraints, self._drawn, incumbents, strict=True)
        for constraints, drawn, (_, accuracy) in bounds:
            improvement = _Improvement(expected, accuracy, constraints, evaluated.keys() | next_archs.keys())
            promising = improvement.largest(drawn, [choice for choice, _ in incumbents], self._widths)
            if promising is not None:
                next_archs[promising[0]] = promising[1]
        best_first = sorted(next_archs, key=lambda choice: (-next_archs[choice], choice))[: self._meter.affordable]
        self._meter.evaluate([self._name(choice) for choice in best_first])
        return bool(best_first)

    def conclude(self) -> Front:
        """The front among all evaluated archs."""
        evaluated = self._evaluated()
        expected = self._model.fit(evaluated)(list(evaluated))
        by_arch = {
            self._name(choice): (float(mean), float(spread))
            for choice, mean, spread in zip(evaluated, expected.mean, expected.spread, strict=True)
        }
        last = self._constraints[-1]
        described = score_choices(evaluated, self._logs, self._problem.space, self._latency, last)
        asked = [replace(candidate, accuracy=self._meter.accuracies[candidate.arch]) for candidate in described]
        smoothed = [replace(candidate, accuracy=by_arch[candidate.arch][0]) for candidate in described]
        own = {bound.quantity.name for bound in self._problem.constraints}
        ranked = best_first(smoothed)
        return Front(tuple(choose_front(self._bounds_ms, asked, by_arch)), tuple(_only(c, own) for c in ranked))

    @property
    def _widths(self) -> list[int]:
        return [len(layer.blocks) for layer in self._problem.space.layers]

    @cached_property
    def _drawn(self) -> list[list[Choice]]:
        """Archs drawn near each bound."""
        generator, tolerance = torch.Generator().manual_seed(self._problem.seed), self._problem.tolerance
        pools = []
        for constraints in self._constraints:
            limits = (self._latency, constraints, _DRAWN, generator, tolerance)
            proposed = propose(self._logs, self._problem.space, *limits)
            pools.append([self._choice(candidate.arch) for candidate in proposed])
        return pools

    def _evaluated(self) -> dict[Choice, float]:
        return {self._choice(arch): accuracy for arch, accuracy in self._meter.accuracies.items()}

    def _choice(self, arch: str) -> Choice:
        if arch not in self._choices:
            self._choices[arch] = choice_of(arch, self._problem.space)
        return self._choices[arch]

    def _name(self, choice: Choice) -> str:
        arch = arch_string(choice, self._problem.space)
        self._choices.setdefault(arch, choice)
        return arch


def _only(candidate: ScoredArch, quantities: set[str]) -> ScoredArch:
    """An arch with the checks of these quantities alone."""
    checks = tuple(check for check in candidate.constraints if check.quantity in quantities)
    return replace(candidate, constraints=checks)


@dataclass(frozen=True)
class _Improvement:
    """The expected improvement on the net chosen at a bound.

    Attributes:
        expected: what the model expects of archs.
        accuracy: of the net chosen there.
        constraints: what an arch must meet.
        without: archs that are evaluated anyway.
    """

    expected: Callable[[Sequence[Choice]], Expected]
    accuracy: float
    constraints: Sequence[Constraint]
    without: Set[Choice]

    def largest(
        self, drawn: Iterable[Choice], changeable: Iterable[Choice], widths: Sequence[int]
    ) -> tuple[Choice, float] | None:
        """An arch with a large expected improvement, and that; None where no arch is left.

        Args:
            drawn: archs to begin with.
            changeable: archs whose single changes are looked at from the beginning.
            widths: how many candidates each layer has.
        """
        values: dict[Choice, float] = {}
        looked: Iterable[Choice] = [
            *drawn,
            *(near for choice in changeable for _, near in single_changes(choice, widths)),
        ]
        for _ in range(1 + _CLIMBS):
            fitting = [choice for choice in dict.fromkeys(looked) if choice not in values and self._fits(choice)]
            if not fitting:
                break
            values.update(zip(fitting, self._of(fitting).tolist(), strict=True))
            best = sorted(values, key=lambda choice: (-values[choice], choice))[:_CHANGED]
            looked = [near for choice in best for _, near in single_changes(choice, widths)]
        if not values:
            return None
        largest = min(values, key=lambda choice: (-values[choice], choice))
        return largest, values[largest]

    def _fits(self, choice: Choice) -> bool:
        return choice not in self.without and all(constraint.met(choice) for constraint in self.constraints)

    def _of(self, choices: Sequence[Choice]) -> Table:
        expected = self.expected(choices)
        ahead = expected.mean - self.accuracy
        scaled = ahead / expected.spread
        return np.asarray(ahead * ndtr(scaled) + expected.spread * np.exp(-(scaled**2) / 2) / math.sqrt(2 * math.pi))
