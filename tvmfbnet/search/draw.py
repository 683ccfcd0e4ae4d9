"""Archs drawn from P(a) = prod_l P(b_l), given that several cost models lie within windows.

Rejecting what falls outside would hardly ever hit a narrow window. Instead the probability mass that the layers from l
on can bring into the windows is summed backwards over a grid of costs, and the layers are then drawn forwards in
proportion to it: exact up to the grid, and what the grid gets wrong is rejected in the end. The grid has one dimension
for each of the first two additive cost models; further ones are left to rejection, and so are those that are not
additive, once the candidates that no arch within them has are gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts, Choice, CostModel
from tvmfbnet.search.knapsack import least_choice

# Steps into which most_probable_within divides the budget; its result is within 1/BUDGET_STEPS of the optimum.
BUDGET_STEPS = 4000
# Steps of a grid with two dimensions. Most mass lies just beyond tight bounds, so little rounding is allowed for.
_TWO_STEPS, _SIGMAS = (600, 300), 3.0
# Where archs are rejected, drawing is repeated so often to make up for them.
_ROUNDS = 8
# Archs that are drawn to find one that meets a constraint which is not additive, each time from a flatter distribution.
_TRIES = 4_000
_FLATTER = (1.0, 0.5, 0.2, 0.0)


@dataclass(frozen=True)
class Window:
    """Archs whose cost lies between two bounds, both included."""

    model: CostModel
    low: float
    high: float

    @classmethod
    def up_to(cls, constraint: Constraint) -> Window:
        """All archs within a constraint."""
        return cls(constraint.model, 0.0, constraint.bound)

    def holds(self, choice: Choice) -> bool:
        """Whether an arch lies in it."""
        return self.low <= self.model.value(choice) <= self.high


def sample_choices(log_probabilities: torch.Tensor, count: int, generator: torch.Generator) -> list[Choice]:
    """``count`` archs drawn from P(a) = prod_l P(b_l), repeats included.

    Args:
        log_probabilities: (layers, candidates).
        count: draws.
        generator: source of randomness, on the CPU.
    """
    drawn = torch.multinomial(log_probabilities.exp().cpu(), count, replacement=True, generator=generator)
    return [tuple(column) for column in drawn.T.tolist()]


def log_probability(log_probabilities: Sequence[Sequence[float]], choice: Choice) -> float:
    """Log of an arch's probability."""
    return sum(row[index] for row, index in zip(log_probabilities, choice, strict=True))


def choices_between(
    log_probabilities: Sequence[Sequence[float]], windows: Sequence[Window], count: int, generator: torch.Generator
) -> list[Choice]:
    """Distinct archs drawn from P(a), given that they lie in all ``windows``: those of :func:`draws_between`."""
    return list(dict.fromkeys(draws_between(log_probabilities, windows, count, generator)))


def draws_between(
    log_probabilities: Sequence[Sequence[float]], windows: Sequence[Window], count: int, generator: torch.Generator
) -> list[Choice]:
    """Archs drawn from P(a), given that they lie in all ``windows``, repeats included.

    Args:
        log_probabilities: (layers, candidates).
        windows: the grid is finest for the first additive one.
        count: draws; fewer archs come back where many are rejected, none where there is none.
        generator: source of randomness, on the CPU.
    """
    log_probabilities = _allowed_rows(log_probabilities, windows)
    if any(max(row) == -math.inf for row in log_probabilities):
        return []
    summed = [window for window in windows if isinstance(window.model, AdditiveCosts)]
    gridded = summed[:1] + [window for window in summed[1:] if window.high < window.model.most][:1]
    grid = _Grid.of(log_probabilities, gridded) if gridded else None
    if gridded and grid is None:
        return []
    kept: list[Choice] = []
    for _ in range(1 if len(windows) == len(summed) == 1 else _ROUNDS):
        if grid is None:
            drawn = sample_choices(_padded(log_probabilities), count, generator)
        else:
            drawn = grid.draw(count, generator)
        kept += [choice for choice in drawn if all(window.holds(choice) for window in windows)]
        if len(kept) >= count:
            break
    return kept[:count]


def _allowed_rows(rows: Sequence[Sequence[float]], windows: Sequence[Window]) -> Sequence[Sequence[float]]:
    """The rows with the logarithm of nothing where a window that is not additive excludes a candidate."""
    for window in windows:
        if not isinstance(window.model, AdditiveCosts):
            allowed = window.model.allowed(window.high)
            rows = [
                [log if fits else -math.inf for log, fits in zip(row, fitting, strict=False)]
                for row, fitting in zip(rows, allowed, strict=True)
            ]
    return rows


def _padded(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    widest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-math.inf] * (widest - len(row))] for row in rows], dtype=torch.float64)


@dataclass(frozen=True)
class _Axis:
    """One dimension of the grid: each candidate's cost in steps, the places, and the first place of the window."""

    steps: list[list[int]]
    places: int
    start: int

    @classmethod
    def of(cls, window: Window, resolution: int, sigmas: float = math.inf) -> _Axis | None:
        """None where not even the fixed part fits.

        Args:
            window: the values that are divided into steps.
            resolution: the number of steps.
            sigmas: accumulated rounding up to this number of standard deviations is allowed for.
        """
        model = window.model
        if not isinstance(model, AdditiveCosts) or window.high <= model.fixed:
            return None
        unit = (window.high - model.fixed) / resolution
        steps = [[round(cell / unit) for cell in row] for row in model.cells]
        slack = len(steps) // 2 + 1  # largest accumulated rounding
        if sigmas < math.inf:
            slack = min(slack, math.ceil(sigmas * math.sqrt(len(steps) / 12)))
        start = max(0, math.floor((window.low - model.fixed) / unit) - slack)
        return cls(steps, resolution + slack + 1, start)


@dataclass(frozen=True)
class _Grid:
    """The mass that the layers from l on can bring into the windows, for every l and every cost so far.

    Attributes:
        log_probabilities: (layers, candidates).
        layers: for each layer and candidate its cost in steps, per dimension.
        later: log of the mass behind each layer, by place.
    """

    log_probabilities: Sequence[Sequence[float]]
    layers: list[list[tuple[int, ...]]]
    later: list[torch.Tensor]

    @classmethod
    def of(cls, log_probabilities: Sequence[Sequence[float]], windows: Sequence[Window]) -> _Grid | None:
        """Of one or two additive windows; None where no arch lies in them."""
        if len(windows) == 1:
            axes = [_Axis.of(windows[0], BUDGET_STEPS)]
        else:
            axes = [_Axis.of(window, steps, _SIGMAS) for window, steps in zip(windows, _TWO_STEPS, strict=True)]
        fitting = [axis for axis in axes if axis is not None]
        if len(fitting) < len(axes):
            return None
        mass = torch.full([axis.places for axis in fitting], -math.inf, dtype=torch.float64)
        mass[tuple(slice(axis.start, None) for axis in fitting)] = 0.0
        layers = [list(zip(*rows, strict=True)) for rows in zip(*(axis.steps for axis in fitting), strict=True)]
        later = [mass]
        for row, logs in zip(reversed(layers), reversed(log_probabilities), strict=True):
            choices = [_ahead(later[-1], steps) + log for steps, log in zip(row, logs, strict=False)]
            later.append(torch.stack(choices).logsumexp(dim=0))
        later.reverse()
        return None if later[0].flatten()[0] == -math.inf else cls(log_probabilities, layers, later)

    def draw(self, count: int, generator: torch.Generator) -> list[Choice]:
        """``count`` archs, layer by layer; some lie outside by what the grid rounds."""
        spent = [torch.zeros(count, dtype=torch.int64) for _ in self.later[0].shape]
        drawn = []
        for row, logs, mass in zip(self.layers, self.log_probabilities, self.later[1:], strict=True):
            choices = [_at(mass, spent, steps) + log for steps, log in zip(row, logs, strict=False)]
            weights = torch.stack(choices, dim=1).softmax(dim=1)
            chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]
            taken = torch.tensor(row)[chosen]
            spent = [place + taken[:, axis] for axis, place in enumerate(spent)]
            drawn.append(chosen)
        return [tuple(choice) for choice in torch.stack(drawn, dim=1).tolist()]


def _ahead(mass: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
    """``mass`` read ``steps`` places further on in each dimension; -inf beyond its end."""
    moved = torch.full_like(mass, -math.inf)
    if all(step < places for step, places in zip(steps, mass.shape, strict=True)):
        kept = tuple(slice(0, places - step) for step, places in zip(steps, mass.shape, strict=True))
        moved[kept] = mass[tuple(slice(step, None) for step in steps)]
    return moved


def _at(mass: torch.Tensor, places: Sequence[torch.Tensor], steps: Sequence[int]) -> torch.Tensor:
    """``mass`` at several places, each moved by ``steps``; -inf beyond its end."""
    moved = [place + step for place, step in zip(places, steps, strict=True)]
    inside = torch.stack([place < size for place, size in zip(moved, mass.shape, strict=True)]).all(dim=0)
    read = mass[tuple(place.clamp_max(size - 1) for place, size in zip(moved, mass.shape, strict=True))]
    return read.masked_fill(~inside, -math.inf)


def most_probable_within(log_probabilities: Sequence[Sequence[float]], constraints: Sequence[Constraint]) -> Choice:
    """The most probable arch within all constraints.

    One additive constraint is a knapsack with one item per layer, solved by dynamic programming with costs rounded up
    to 1/4000 of the budget; others are solved as an integer program (:mod:`tvmfbnet.search.knapsack`). Where that finds
    no arch that meets the constraints that are not additive, it is the most probable of many that are drawn.

    Raises:
        ConstraintError: there is no such arch, or none was drawn.
    """
    models = [(item, item.model) for item in constraints if isinstance(item.model, AdditiveCosts)]
    best: Choice | None
    if not constraints:
        best = tuple(row.index(max(row)) for row in log_probabilities)
    elif len(constraints) == len(models) == 1:
        best = _knapsack(log_probabilities, models[0][1], models[0][0].bound)
    else:
        rows = zip(log_probabilities, constraints[0].model.allowed(math.inf), strict=True)
        best = least_choice([[-score for score in row[: len(cells)]] for row, cells in rows], constraints)
    if best is not None and all(constraint.met(best) for constraint in constraints):
        return best
    if len(models) < len(constraints):
        generator, windows = torch.Generator().manual_seed(0), [Window.up_to(constraint) for constraint in constraints]
        for power in _FLATTER:
            drawn = choices_between(_flattened(log_probabilities, power), windows, _TRIES, generator)
            if drawn:
                return max(drawn, key=lambda choice: log_probability(log_probabilities, choice))
    names = " and ".join(constraint.text for constraint in constraints)
    raise ConstraintError(f"found no net of this space that meets {names}")


def _flattened(log_probabilities: Sequence[Sequence[float]], power: float) -> list[list[float]]:
    """Log probabilities in proportion to a power of the given ones; 0 makes all candidates equally likely."""
    rows = ([power * log if log > -math.inf else log for log in row] for row in log_probabilities)
    return [torch.tensor(row, dtype=torch.float64).log_softmax(dim=0).tolist() for row in rows]


def _knapsack(log_probabilities: Sequence[Sequence[float]], costs: AdditiveCosts, bound: float) -> Choice:
    """Where rounding leaves no arch at all, the one with the least cost."""
    least = tuple(row.index(min(row)) for row in costs.cells)
    spare = bound - costs.least
    if spare <= 0:
        return least
    unit = spare / BUDGET_STEPS
    best: dict[int, tuple[float, Choice]] = {0: (0.0, ())}
    for cells, row in zip(costs.cells, log_probabilities, strict=True):
        steps = [math.ceil((cell - min(cells)) / unit) for cell in cells]
        grown: dict[int, tuple[float, Choice]] = {}
        for spent, (score, choice) in best.items():
            for index, step in enumerate(steps):
                total = spent + step
                if total <= BUDGET_STEPS and score + row[index] > grown.get(total, (-math.inf, ()))[0]:
                    grown[total] = (score + row[index], (*choice, index))
        best = _without_dominated(grown)
    return max(best.values(), default=(0.0, least))[1]


def _without_dominated(states: dict[int, tuple[float, Choice]]) -> dict[int, tuple[float, Choice]]:
    """Drops states that spend more than another one and are not more probable."""
    kept: dict[int, tuple[float, Choice]] = {}
    highest = -math.inf
    for spent in sorted(states):
        if states[spent][0] > highest:
            highest = states[spent][0]
            kept[spent] = states[spent]
    return kept
