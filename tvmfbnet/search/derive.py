"""From theta to nets: archs sampled from the learned distribution and kept within the target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tvmfbnet.search.costs import Costs
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space

Choice = tuple[int, ...]
"""One candidate's index per layer."""

# Steps into which most_probable_within divides the latency budget; its result is within 1/BUDGET_STEPS of the optimum.
BUDGET_STEPS = 4000


@dataclass(frozen=True)
class ScoredArch:
    """An arch that the search proposes.

    Args:
        arch: canonical string.
        probability: of being sampled from theta.
        predicted_ms: from the latency table.
        accuracy: top-1 on the images that trained theta, with the supernet's weights and recalibrated
            batch-norm statistics, between 0 and 1; None when it was not validated.
        spread_ms: one standard deviation of ``predicted_ms``, from the table's cells.
    """

    arch: str
    probability: float
    predicted_ms: float
    accuracy: float | None = None
    spread_ms: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


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


def most_probable_within(log_probabilities: Sequence[Sequence[float]], costs: Costs, target_ms: float) -> Choice:
    """The most probable arch within a latency target: a knapsack with one item per layer, by dynamic programming.

    Latencies are rounded up to 1/4000 of the budget, so the answer always meets the target; where rounding leaves no
    arch at all the fastest one is given.
    """
    fastest = tuple(row.index(min(row)) for row in costs.cells)
    spare = target_ms - costs.fastest_ms
    if spare <= 0:
        return fastest
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
    return max(best.values(), default=(0.0, fastest))[1]


def _without_dominated(states: dict[int, tuple[float, Choice]]) -> dict[int, tuple[float, Choice]]:
    """Drops states that spend more than another one and are not more probable."""
    kept: dict[int, tuple[float, Choice]] = {}
    highest = -math.inf
    for spent in sorted(states):
        if states[spent][0] > highest:
            highest = states[spent][0]
            kept[spent] = states[spent]
    return kept


def choices_between(
    log_probabilities: Sequence[Sequence[float]],
    costs: Costs,
    low_ms: float,
    high_ms: float,
    count: int,
    generator: torch.Generator,
) -> list[Choice]:
    """Distinct archs drawn from P(a), given that their latency lies between two bounds, both included.

    Rejecting what falls outside would hardly ever hit a narrow window. Instead the probability mass that the layers
    from l on can bring into the window is summed backwards over a grid of latencies, and the layers are then drawn
    forwards in proportion to it: exact up to the grid, and what the grid gets wrong is rejected in the end.

    Args:
        log_probabilities: (layers, candidates).
        costs: the latencies.
        low_ms, high_ms: the window.
        count: draws; fewer archs come back, none where there is none.
        generator: source of randomness, on the CPU.
    """
    if high_ms <= costs.fixed_ms:
        return []
    unit = (high_ms - costs.fixed_ms) / BUDGET_STEPS
    steps = [[round(cell / unit) for cell in row] for row in costs.cells]
    slack = len(steps) // 2 + 1  # largest accumulated rounding
    places = BUDGET_STEPS + slack + 1
    mass = torch.full((places,), -math.inf, dtype=torch.float64)
    mass[max(0, math.floor((low_ms - costs.fixed_ms) / unit) - slack) :] = 0.0
    later = [mass]
    for row, logs in zip(reversed(steps), reversed(log_probabilities), strict=True):
        reach = [_ahead(later[-1], step) + log for step, log in zip(row, logs, strict=False)]
        later.append(torch.stack(reach).logsumexp(dim=0))
    later.reverse()
    if later[0][0] == -math.inf:
        return []
    spent = torch.zeros(count, dtype=torch.int64)
    drawn = []
    for row, logs, mass in zip(steps, log_probabilities, later[1:], strict=True):
        reach = [_ahead(mass, step)[spent] + log for step, log in zip(row, logs, strict=False)]
        weights = torch.stack(reach, dim=1).softmax(dim=1)
        chosen = torch.multinomial(weights, 1, generator=generator)[:, 0]
        spent = spent + torch.tensor(row)[chosen]
        drawn.append(chosen)
    distinct = dict.fromkeys(tuple(choice) for choice in torch.stack(drawn, dim=1).tolist())
    return [choice for choice in distinct if low_ms <= costs.arch_ms(choice) <= high_ms]


def _ahead(mass: torch.Tensor, step: int) -> torch.Tensor:
    """``mass`` read ``step`` places further on; -inf beyond its end."""
    moved = torch.full_like(mass, -math.inf)
    if step < len(mass):
        moved[: len(mass) - step] = mass[step:]
    return moved


def propose(
    log_probabilities: torch.Tensor,
    space: Space,
    costs: Costs,
    target_ms: float | None,
    samples: int,
    generator: torch.Generator,
    tolerance: float = 0.03,
) -> list[ScoredArch]:
    """Distinct archs sampled from theta, most probable first, not validated yet; never none.

    With a target they are sampled from those whose latency is at most ``tolerance`` below it. Where a space has no
    such arch (a small one, or a target beyond its slowest arch), the window is opened downwards until it has.
    """
    rows = log_probabilities.detach().cpu().double()
    if target_ms is None:
        choices = set(sample_choices(rows, samples, generator))
        choices.add(most_probable_within(rows.tolist(), costs, costs.slowest_ms))
        return _candidates(choices, rows, space, costs, None)
    while tolerance < 1:
        low = (1 - tolerance) * target_ms
        within = choices_between(rows.tolist(), costs, low, target_ms, samples, generator)
        if within:
            return _candidates(within, rows, space, costs, target_ms)
        tolerance *= 2
    return _candidates([most_probable_within(rows.tolist(), costs, target_ms)], rows, space, costs, target_ms)


def sample_distinct(
    log_probabilities: torch.Tensor,
    space: Space,
    costs: Costs,
    target_ms: float | None,
    count: int,
    generator: torch.Generator,
) -> list[ScoredArch]:
    """Draws from theta until ``count`` different archs have come that meet the target; most probable first.

    A distribution that is nearly certain may give fewer: drawing stops after a hundred draws an arch.
    """
    rows = log_probabilities.detach().cpu().double()
    if target_ms is None:
        drawn = sample_choices(rows, 100 * count, generator)
    else:
        drawn = choices_between(rows.tolist(), costs, 0.0, target_ms, 100 * count, generator)
    return _candidates(list(dict.fromkeys(drawn))[:count], rows, space, costs, target_ms)


def pareto_front(candidates: Sequence[ScoredArch]) -> list[ScoredArch]:
    """Those validated candidates that no other one beats in latency without losing accuracy, fastest first."""
    best = -math.inf
    front = []
    for candidate in sorted(candidates, key=lambda c: (c.predicted_ms, -(c.accuracy or 0.0))):
        if candidate.accuracy is not None and candidate.accuracy > best:
            best = candidate.accuracy
            front.append(candidate)
    return front


def _candidates(
    choices: Iterable[Choice], log_probabilities: torch.Tensor, space: Space, costs: Costs, target_ms: float | None
) -> list[ScoredArch]:
    """Describes those of ``choices`` that meet the target, most probable first."""
    table = log_probabilities.tolist()
    scored = [
        ScoredArch(
            _arch_string(choice, space),
            math.exp(log_probability(table, choice)),
            costs.arch_ms(choice),
            spread_ms=costs.spread_ms(choice),
        )
        for choice in choices
    ]
    fitting = (c for c in scored if target_ms is None or c.predicted_ms <= target_ms)
    return sorted(fitting, key=lambda c: (-c.probability, c.arch))


def _arch_string(choice: Choice, space: Space) -> str:
    blocks = (layer.blocks[index] for layer, index in zip(space.layers, choice, strict=True))
    return format_arch(Arch(tuple(blocks)), space)
