"""What a strategy that judges archs one after another keeps: those it has evaluated, and fresh ones within all bounds.

No arch is handed out twice, so none is paid for twice, and a strategy ends where its space has no further arch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice
from tvmfbnet.search.derive import ScoredArch, arch_string, best_first, choice_of, score_choices
from tvmfbnet.search.neighbours import changed, single_changes
from tvmfbnet.search.strategies.evaluating import ArchProblem, uniform_log_probabilities
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.space import Space

# Relative rounding of a sum of costs.
_ROUNDING = 1e-9


class Trials:
    """The archs of one search, evaluated or about to be.

    Args:
        problem: says what archs must meet, and evaluates them.

    Attributes:
        accuracies: of the archs evaluated so far.
        tolerance: how far below a bound archs are looked for.
    """

    def __init__(self, problem: ArchProblem) -> None:
        self._problem = problem
        self.accuracies: dict[Choice, float] = {}
        self._taken: set[Choice] = set()
        drawn = problem.random_archs(problem.meter.affordable)
        self._reserve = iter([choice_of(candidate.arch, problem.space) for candidate in drawn])
        self.tolerance = _tolerance(drawn, problem.tolerance)
        self._listed = None if problem.listed is None else [choice_of(arch, problem.space) for arch in problem.listed]
        self._window = _Window(problem.space, problem.constraints, self.tolerance)

    @property
    def left(self) -> int:
        """How many further archs the budget allows."""
        return self._problem.meter.affordable

    @property
    def together(self) -> int:
        """How many archs are best evaluated at once, as far as the budget allows."""
        return min(self._problem.meter.together, self.left)

    def is_free(self, choice: Choice) -> bool:
        """Whether an arch meets all constraints and was not taken."""
        return choice not in self._taken and all(constraint.met(choice) for constraint in self._problem.constraints)

    def take(self, choice: Choice) -> Choice:
        """Marks an arch as taken."""
        self._taken.add(choice)
        return choice

    def free_listed(self) -> list[Choice] | None:
        """The archs of the problem's list that are free; None where there is no list."""
        return None if self._listed is None else [choice for choice in self._listed if self.is_free(choice)]

    def take_random(self, count: int) -> list[Choice]:
        """Random archs near a bound; fewer than ``count`` where there are no more."""
        taken: list[Choice] = []
        for choice in self._reserve if count > 0 else ():
            if choice not in self._taken:
                taken.append(self.take(choice))
            if len(taken) == count:
                break
        return taken

    def take_mutated(self, parent: Choice, generator: random.Random) -> Choice | None:
        """An arch that differs from ``parent`` in one layer at random; None where all are taken.

        Where that arch is taken, violates a bound or leaves the neighbourhood of the bounds, a second layer changes to
        make up for it; all second changes that do are equally likely.
        """
        listed = self.free_listed()
        if listed is not None:
            return self.take(_nearest(parent, listed, self._problem.space, generator)) if listed else None
        singles = list(self._window.changes(parent))
        generator.shuffle(singles)
        for layer, child in singles:
            if self.is_free(child) and self._window.holds(child):
                return self.take(child)
            repaired = [choice for choice in self._window.changes_within(child, layer) if self.is_free(choice)]
            if repaired:
                return self.take(generator.choice(repaired))
        return None

    def evaluate(self, choices: Sequence[Choice]) -> list[float]:
        """Their accuracies."""
        archs = {choice: arch_string(choice, self._problem.space) for choice in choices}
        accuracies = self._problem.meter.evaluate(list(archs.values()))
        self.accuracies.update({choice: accuracies[arch] for choice, arch in archs.items()})
        return [self.accuracies[choice] for choice in choices]

    def ranked(self) -> list[ScoredArch]:
        """All archs that were evaluated, best first."""
        problem, logs = self._problem, uniform_log_probabilities(self._problem.space)
        scored = score_choices(self.accuracies, logs, problem.space, problem.latency, problem.constraints)
        accuracies = problem.meter.accuracies
        return best_first(replace(candidate, accuracy=accuracies[candidate.arch]) for candidate in scored)


def _nearest(parent: Choice, archs: Sequence[Choice], space: Space, generator: random.Random) -> Choice:
    """An arch whose blocks differ from the parent's in fewest fields (kernel, expansion and others); at random."""
    blocks = [[parse_block(block) for block in layer.blocks] for layer in space.layers]

    def distance(choice: Choice) -> int:
        total = 0
        for row, one, other in zip(blocks, parent, choice, strict=True):
            specs = [(1,) if spec is None else (0, *vars(spec).values()) for spec in (row[one], row[other])]
            total += sum(a != b for a, b in zip_longest(*specs))
        return total

    distances = [distance(choice) for choice in archs]
    least = min(distances)
    return generator.choice([choice for choice, far in zip(archs, distances, strict=True) if far == least])


def _tolerance(drawn: Sequence[ScoredArch], tolerance: float) -> float:
    """How far below a bound archs lie: the settings' tolerance, or more where a space has no archs so near."""
    slacks = [min(1 - c.value / c.bound for c in candidate.constraints) for candidate in drawn if candidate.constraints]
    return max([tolerance, *slacks]) + _ROUNDING


class _Window:
    """The archs that meet all constraints, one of them nearly binding."""

    def __init__(self, space: Space, constraints: Sequence[Constraint], tolerance: float) -> None:
        self._constraints, self._tolerance = constraints, tolerance
        self._widths = [len(layer.blocks) for layer in space.layers]
        self._exists = np.arange(max(self._widths)) < np.array(self._widths)[:, None]

    def changes(self, choice: Choice) -> Iterator[tuple[int, Choice]]:
        """Every change of one layer: the layer, and the arch."""
        return single_changes(choice, self._widths)

    def holds(self, choice: Choice) -> bool:
        """Whether an arch lies in the window."""
        values = [(constraint.model.value(choice), constraint.bound) for constraint in self._constraints]
        near = not values or any(value >= (1 - self._tolerance) * bound for value, bound in values)
        return near and all(value <= bound for value, bound in values)

    def changes_within(self, choice: Choice, but: int) -> list[Choice]:
        """The changes of one layer, other than ``but``, that lie in the window up to rounding."""
        allowed, near = self._exists.copy(), np.full(self._exists.shape, not self._constraints)
        allowed[but] = False
        allowed[np.arange(len(choice)), list(choice)] = False
        for constraint in self._constraints:
            values = self._values(constraint, choice)
            allowed &= values <= constraint.bound
            near |= values >= (1 - self._tolerance) * constraint.bound
        return [changed(choice, int(layer), int(index)) for layer, index in np.argwhere(allowed & near)]

    def _values(self, constraint: Constraint, choice: Choice) -> NDArray[np.float64]:
        """(layers, most candidates): the quantity after a change of one layer."""
        model = constraint.model
        if isinstance(model, AdditiveCosts):
            cells: NDArray[np.float64] = np.array(model.padded(), dtype=np.float64)
            return model.value(choice) + cells - cells[np.arange(len(choice)), list(choice)][:, None]
        values = np.zeros(self._exists.shape)
        for layer, other in self.changes(choice):
            values[layer, other[layer]] = model.value(other)
        return values
