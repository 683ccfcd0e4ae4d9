"""The front itself: its latency bounds, the net chosen at each, and the file ``front.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tvmfbnet.errors import ConfigError, ConstraintError
from tvmfbnet.files import Stored, read_model, write_json
from tvmfbnet.search.constraints import Constraint, ConstraintCheck
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.derive import ScoredArch
from tvmfbnet.search.draw import most_probable_within
from tvmfbnet.search.knapsack import least_choice
from tvmfbnet.search.quantities.latency import LATENCY

FRONT_FILE = "front.json"


@dataclass(frozen=True)
class FrontNet:
    """One net of a front.

    Args:
        bound_ms: the latency bound that it was chosen at.
        arch: canonical string.
        predicted_ms: from the latency table.
        spread_ms: one standard deviation of that.
        accuracy: as all evaluations together tell, between 0 and 1.
        accuracy_spread: one standard deviation of that.
        evaluated_accuracy: its own evaluation, noise included.
        constraints: what it has of each bounded quantity; latency is bounded by ``bound_ms``.
    """

    bound_ms: float
    arch: str
    predicted_ms: float
    spread_ms: float
    accuracy: float
    accuracy_spread: float
    evaluated_accuracy: float
    constraints: tuple[ConstraintCheck, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "constraints": [check.to_dict() for check in self.constraints]}


class FrontNetRecord(Stored):
    """See :class:`FrontNet`."""

    bound_ms: float = Field(gt=0)
    arch: str
    predicted_ms: float = Field(ge=0)
    spread_ms: float = Field(ge=0)
    accuracy: float = Field(ge=0, le=1)
    accuracy_spread: float = Field(ge=0)
    evaluated_accuracy: float = Field(ge=0, le=1)
    constraints: list[dict[str, Any]] = Field(default_factory=list)


class FrontRecord(Stored):
    """The content of ``front.json``.

    Attributes:
        strategy: how archs were searched.
        evaluations: how many archs were evaluated.
        spent_images: what that cost, in training images.
        nets: the front, fastest first.
    """

    strategy: str
    evaluations: int = Field(ge=1)
    spent_images: float = Field(ge=0)
    nets: list[FrontNetRecord] = Field(min_length=1)


def read_front(folder: Path) -> FrontRecord:
    """The front in a search's folder; StorageError where it is missing or damaged."""
    return read_model(folder / FRONT_FILE, FrontRecord)


def write_front(folder: Path, strategy: str, evaluations: int, spent_images: float, nets: Sequence[FrontNet]) -> None:
    """Writes ``front.json``."""
    records = [FrontNetRecord.model_validate(net.to_dict()) for net in nets]
    record = FrontRecord(strategy=strategy, evaluations=evaluations, spent_images=spent_images, nets=records)
    write_json(folder / FRONT_FILE, record.model_dump())


def front_bounds(latency: AdditiveCosts, constraints: Sequence[Constraint], count: int) -> tuple[float, ...]:
    """Latency bounds at equal distances, the last one the latency target or else the slowest arch's latency.

    Args:
        latency: of every arch.
        constraints: what every net must meet; those that add up narrow the range.
        count: how many bounds. Those that no arch meets together with a constraint that does not add up are left out.

    Raises:
        ConstraintError: all archs within the constraints are equally fast.
    """
    target_ms = next((item.bound for item in constraints if item.quantity is LATENCY), latency.most)
    others = [item for item in constraints if item.quantity is not LATENCY and isinstance(item.model, AdditiveCosts)]
    fastest = least_choice(latency.cells, others)
    slowest = least_choice([[-cell for cell in row] for row in latency.cells], others)
    if fastest is None or slowest is None:
        raise ConstraintError("no net of this space meets " + " and ".join(item.text for item in others) + " together")
    low, high = latency.value(fastest), min(target_ms, latency.value(slowest))
    if not low < high:
        raise ConstraintError(
            f"a front needs nets of several latencies, and all that meet the constraints take {LATENCY.text(low)}: "
            "raise the bounds, or search without a front"
        )
    bounds = (*(low + (high - low) * step / count for step in range(1, count)), high)
    if all(isinstance(item.model, AdditiveCosts) for item in constraints):
        return bounds
    return tuple(bound_ms for bound_ms in bounds if _is_reachable(bounded(constraints, latency, bound_ms), latency))


def _is_reachable(constraints: Sequence[Constraint], latency: AdditiveCosts) -> bool:
    """Whether an arch that meets all constraints is drawn; so what does not add up is tried before a search."""
    equal = [[-math.log(len(row))] * len(row) for row in latency.cells]
    try:
        most_probable_within(equal, constraints)
    except ConstraintError:
        return False
    return True


def require_enough(evaluations: int, bounds: int, setting: str) -> None:
    """ConfigError where not even one arch can be evaluated at each bound."""
    if evaluations < bounds:
        problem = f"{evaluations} evaluations are too few for a front of {bounds} bounds; raise {setting}"
        raise ConfigError("search settings", [problem])


def bounded(constraints: Sequence[Constraint], latency: AdditiveCosts, bound_ms: float) -> tuple[Constraint, ...]:
    """The constraints with another bound on latency; it comes first."""
    return (Constraint(latency, bound_ms), *(item for item in constraints if item.quantity is not LATENCY))


def choose_front(
    bounds_ms: Sequence[float], evaluated: Sequence[ScoredArch], expected: Mapping[str, tuple[float, float]]
) -> list[FrontNet]:
    """The most accurate net up to each bound, fastest first.

    A net that is the most accurate up to several bounds is listed once, at the lowest. In place of the others come nets
    between the bounds, each more accurate than all faster ones, as far as there are any.

    Args:
        bounds_ms: ascending.
        evaluated: archs within all other constraints, each with its accuracy as evaluated.
        expected: mean and spread of each one's accuracy.
    """
    climbing: list[ScoredArch] = []
    for candidate in sorted(evaluated, key=lambda c: (c.predicted_ms, -expected[c.arch][0], c.arch)):
        if not climbing or expected[candidate.arch][0] > expected[climbing[-1].arch][0]:
            climbing.append(candidate)
    climbing = [candidate for candidate in climbing if candidate.predicted_ms <= bounds_ms[-1]]
    at_bounds = [[candidate for candidate in climbing if candidate.predicted_ms <= bound_ms] for bound_ms in bounds_ms]
    chosen = list({fitting[-1].arch: fitting[-1] for fitting in at_bounds if fitting}.values())
    others = [candidate for candidate in climbing if candidate not in chosen]
    while others and len(chosen) < len(bounds_ms):
        farthest = max(others, key=lambda c: min(abs(c.predicted_ms - other.predicted_ms) for other in chosen))
        others.remove(farthest)
        chosen.append(farthest)
    nets = []
    for candidate in sorted(chosen, key=lambda c: c.predicted_ms):
        bound_ms = next(bound_ms for bound_ms in bounds_ms if candidate.predicted_ms <= bound_ms)
        nets.append(_front_net(bound_ms, candidate, *expected[candidate.arch]))
    return nets


def _front_net(bound_ms: float, candidate: ScoredArch, accuracy: float, spread: float) -> FrontNet:
    value_ms = candidate.predicted_ms
    latency = ConstraintCheck(LATENCY.name, LATENCY.unit, value_ms, bound_ms, value_ms <= bound_ms)
    others = (check for check in candidate.constraints if check.quantity != LATENCY.name)
    return FrontNet(
        bound_ms,
        candidate.arch,
        value_ms,
        candidate.spread_ms,
        accuracy,
        spread,
        candidate.accuracy or 0.0,
        (latency, *others),
    )
