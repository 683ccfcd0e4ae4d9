"""From theta to nets: archs sampled from the learned distribution and kept within the constraints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tvmfbnet.progress import say
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import (
    Constraint,
    ConstraintCheck,
    constraints_of,
    latency_constraint,
    merged,
    require_feasible,
)
from tvmfbnet.search.cost_model import AdditiveCosts, Choice, CostModel, CostSources
from tvmfbnet.search.draw import Window, choices_between, log_probability, most_probable_within, sample_choices
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.space import Space


@dataclass(frozen=True)
class ScoredArch:
    """An arch that the search proposes.

    Args:
        arch: canonical string.
        probability: of being sampled from theta.
        predicted_ms: from the latency table.
        accuracy: the task's as the search judged it, between 0 and 1 (with the supernet's weights and recalibrated
            batch-norm statistics, or after a short training); None when it was not validated.
        spread_ms: one standard deviation of ``predicted_ms``, from the table's cells.
        constraints: what it has of each bounded quantity.
    """

    arch: str
    probability: float
    predicted_ms: float
    accuracy: float | None = None
    spread_ms: float = 0.0
    constraints: tuple[ConstraintCheck, ...] = ()

    @property
    def meets_all(self) -> bool:
        """Whether it is within every bound."""
        return all(check.met for check in self.constraints)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "constraints": [check.to_dict() for check in self.constraints]}


def search_constraints(config: SearchConfig, latency: CostModel, sources: CostSources) -> tuple[Constraint, ...]:
    """All constraints of a search; says which of them every arch meets.

    Args:
        config: the settings.
        latency: of every arch.
        sources: what the other cost models are built from.

    Raises:
        ConstraintError: no arch meets the constraints.
    """
    own = latency_constraint(latency, config.latency_target_ms)
    constraints = merged(own, constraints_of(config.bounds, sources))
    require_feasible(constraints)
    if not all(isinstance(constraint.model, AdditiveCosts) for constraint in constraints):
        # What is not additive is only known by trying: now, not after hours of training.
        equal = [[-math.log(len(layer.blocks))] * len(layer.blocks) for layer in sources.space.layers]
        most_probable_within(equal, constraints)
    for constraint in constraints:
        if not constraint.may_bind:
            most, is_latency = constraint.quantity.text(constraint.model.most), constraint.quantity is LATENCY
            what = f"the slowest takes {most}" if is_latency else f"the largest has {most}"
            say(f"note: every net of this space meets {'the target' if is_latency else constraint.text}; {what}")
    return constraints


def propose(
    log_probabilities: torch.Tensor,
    space: Space,
    latency: CostModel,
    constraints: Sequence[Constraint],
    samples: int,
    generator: torch.Generator,
    tolerance: float = 0.03,
    fewest: int = 1,
) -> list[ScoredArch]:
    """Distinct archs sampled from theta that meet all constraints, most probable first, not validated; never none.

    They are sampled from those that some constraint nearly binds: its quantity is at most ``tolerance`` below the
    bound. Where fewer than ``fewest`` such archs come (in a small space, or with bounds beyond its largest arch), the
    window is opened downwards until that number comes, or all within the constraints are in it.

    Raises:
        ConstraintError: no arch meets the constraints.
    """
    rows = log_probabilities.detach().cpu().double()
    if not constraints:
        choices = set(sample_choices(rows, samples, generator))
        choices.add(most_probable_within(rows.tolist(), ()))
        return score_choices(choices, rows, space, latency, constraints)
    share = math.ceil(samples / len(constraints))
    drawn: dict[Choice, None] = {}
    while tolerance < 1 and len(drawn) < min(fewest, samples):
        for binding in constraints:
            tight = Window(binding.model, (1 - tolerance) * binding.bound, binding.bound)
            windows = [tight, *(Window.up_to(other) for other in constraints if other is not binding)]
            drawn.update(dict.fromkeys(choices_between(rows.tolist(), windows, share, generator)))
        tolerance *= 2
    if drawn:
        return score_choices(drawn, rows, space, latency, constraints)
    return score_choices([most_probable_within(rows.tolist(), constraints)], rows, space, latency, constraints)


def sample_distinct(
    log_probabilities: torch.Tensor,
    space: Space,
    latency: CostModel,
    constraints: Sequence[Constraint],
    count: int,
    generator: torch.Generator,
) -> list[ScoredArch]:
    """Draws from theta until ``count`` different archs have come that meet all constraints; most probable first.

    A distribution that is nearly certain may give fewer: drawing stops after a hundred draws per arch.
    """
    rows = log_probabilities.detach().cpu().double()
    if not constraints:
        drawn = sample_choices(rows, 100 * count, generator)
    else:
        windows = [Window.up_to(constraint) for constraint in constraints]
        drawn = choices_between(rows.tolist(), windows, 100 * count, generator)
    return score_choices(list(dict.fromkeys(drawn))[:count], rows, space, latency, constraints)


def best_first(archs: Iterable[ScoredArch]) -> list[ScoredArch]:
    """Most accurate first; among equals the faster."""
    return sorted(archs, key=lambda candidate: (-(candidate.accuracy or 0.0), candidate.predicted_ms, candidate.arch))


def pareto_front(candidates: Sequence[ScoredArch]) -> list[ScoredArch]:
    """Those validated candidates that no other one beats in latency without losing accuracy, fastest first."""
    best = -math.inf
    front = []
    for candidate in sorted(candidates, key=lambda c: (c.predicted_ms, -(c.accuracy or 0.0))):
        if candidate.accuracy is not None and candidate.accuracy > best:
            best = candidate.accuracy
            front.append(candidate)
    return front


def score_choices(
    choices: Iterable[Choice],
    log_probabilities: torch.Tensor,
    space: Space,
    latency: CostModel,
    constraints: Sequence[Constraint],
) -> list[ScoredArch]:
    """Describes those of ``choices`` that meet all constraints, most probable first."""
    table = log_probabilities.tolist()
    scored = [
        ScoredArch(
            arch_string(choice, space),
            math.exp(log_probability(table, choice)),
            latency.value(choice),
            spread_ms=latency.spread(choice),
            constraints=tuple(constraint.check(choice) for constraint in constraints),
        )
        for choice in choices
    ]
    fitting = (candidate for candidate in scored if candidate.meets_all)
    return sorted(fitting, key=lambda c: (-c.probability, c.arch))


def arch_string(choice: Choice, space: Space) -> str:
    """The canonical string of an arch."""
    blocks = (layer.blocks[index] for layer, index in zip(space.layers, choice, strict=True))
    return format_arch(Arch(tuple(blocks)), space)


def choice_of(text: str, space: Space) -> Choice:
    """The candidates' indices of an arch string."""
    arch = parse_arch(text, space)
    return tuple(layer.blocks.index(block) for layer, block in zip(space.layers, arch.blocks, strict=True))
