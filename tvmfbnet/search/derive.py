"""From theta to nets: archs sampled from the learned distribution, kept within the target, ranked by accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tvmfbnet.nets.device import place_net
from tvmfbnet.nets.evaluation import accuracy
from tvmfbnet.nets.statistics import recalibrate
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.costs import Costs
from tvmfbnet.space.arch import Arch, format_arch
from tvmfbnet.space.space import Space

Choice = tuple[int, ...]
"""One candidate's index a layer."""

# Steps into which most_probable_within divides the latency budget; its answer is at most one part in so many from best.
BUDGET_STEPS = 4000


@dataclass(frozen=True)
class Candidate:
    """An arch that the search proposes.

    Args:
        arch: canonical string.
        probability: of being sampled from theta.
        predicted_ms: from the latency table.
        accuracy: top-1 on the pictures that trained theta, with the supernet's weights and renewed batch-norm
            statistics, between 0 and 1; None when it was not validated.
    """

    arch: str
    probability: float
    predicted_ms: float
    accuracy: float | None = None

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
    """The most probable arch within a latency target: a knapsack with one item a layer, by dynamic programming.

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


def propose(
    log_probabilities: torch.Tensor,
    space: Space,
    costs: Costs,
    target_ms: float | None,
    samples: int,
    generator: torch.Generator,
) -> list[Candidate]:
    """Distinct archs sampled from theta that meet the target, most probable first, not validated yet.

    The most probable arch of all within the target is always among them, so the list is never empty.
    """
    rows = log_probabilities.detach().cpu()
    choices = set(sample_choices(rows, samples, generator))
    choices.add(most_probable_within(rows.tolist(), costs, min(costs.slowest_ms, target_ms or math.inf)))
    return _candidates(choices, rows, space, costs, target_ms)


def sample_distinct(
    log_probabilities: torch.Tensor,
    space: Space,
    costs: Costs,
    target_ms: float | None,
    count: int,
    generator: torch.Generator,
) -> list[Candidate]:
    """Draws from theta until ``count`` different archs have come that meet the target; most probable first.

    A distribution that is nearly certain may give fewer: drawing stops after a hundred draws an arch.
    """
    rows = log_probabilities.detach().cpu()
    drawn = sample_choices(rows, 100 * count, generator)
    fitting = (choice for choice in drawn if target_ms is None or costs.arch_ms(choice) <= target_ms)
    return _candidates(list(dict.fromkeys(fitting))[:count], rows, space, costs, target_ms)


def _candidates(
    choices: Iterable[Choice], log_probabilities: torch.Tensor, space: Space, costs: Costs, target_ms: float | None
) -> list[Candidate]:
    """Describes those of ``choices`` that meet the target, most probable first."""
    table = log_probabilities.tolist()
    found = [
        Candidate(_arch_string(choice, space), math.exp(log_probability(table, choice)), costs.arch_ms(choice))
        for choice in choices
    ]
    fitting = (c for c in found if target_ms is None or c.predicted_ms <= target_ms)
    return sorted(fitting, key=lambda c: (-c.probability, c.arch))


def _arch_string(choice: Choice, space: Space) -> str:
    blocks = (layer.blocks[index] for layer, index in zip(space.layers, choice, strict=True))
    return format_arch(Arch(tuple(blocks)), space)


def validate_arch(
    supernet: Supernet,
    arch: Arch,
    calibration: Iterable[torch.Tensor],
    validation: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]],
) -> float:
    """Accuracy of an arch with the supernet's weights, after renewing its batch-norm statistics.

    Args:
        supernet: gives the weights; stays as it is.
        arch: the net to judge.
        calibration: pictures for the statistics, from the part that trained w.
        validation: gives the labelled batches to judge on, from the other part.
    """
    device = supernet.theta.device
    net = place_net(supernet.extract(arch), device)
    recalibrate(net, (batch.to(device=device, memory_format=torch.channels_last) for batch in calibration))
    return accuracy(net, validation(), device)
