"""Constraints: upper bounds on quantities of an arch, as users write them and as a search obeys them.

``params<=4.5M`` is parsed to a :class:`Bound`, which needs no space. With the cost model of a space it is a
:class:`Constraint`. The latency target is the constraint on latency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import AdditiveCosts, Choice, CostModel, CostSources, Quantity
from tvmfbnet.search.knapsack import is_infeasible, least_choice
from tvmfbnet.search.quantities import QUANTITIES, quantity_named
from tvmfbnet.search.quantities.latency import LATENCY

_SHAPE = "a constraint is written QUANTITY<=BOUND, such as params<=4.5M"


@dataclass(frozen=True)
class Bound:
    """The most of a quantity that an arch may have."""

    quantity: Quantity
    value: float

    @property
    def text(self) -> str:
        """As users write it, in one form: ``params<=4.5M``."""
        return f"{self.quantity.name}<={self.quantity.exact(self.value)}"


def parse_bound(text: str) -> Bound:
    """``params<=4.5M``; ConstraintError says what is wrong with other text."""
    name, sign, value = (part.strip() for part in text.partition("<="))
    if not sign or "<" in value or ">" in text or "=" in value:
        raise ConstraintError(f"{text[:60]!r} is no constraint: {_SHAPE}")
    quantity = quantity_named(name)
    if quantity is LATENCY and value.endswith("%"):
        raise ConstraintError(
            f"{text[:60]!r}: write a share of the slowest net's latency as --latency-target {value} "
            "(latency_target_share in a recipe)"
        )
    return Bound(quantity, quantity.parse(value))


def parse_bounds(texts: Iterable[str]) -> tuple[Bound, ...]:
    """Several constraints in the registry's order; ConstraintError where two bound one quantity."""
    bounds: dict[str, Bound] = {}
    for text in texts:
        bound = parse_bound(text)
        other = bounds.setdefault(bound.quantity.name, bound)
        if other is not bound:
            raise ConstraintError(f"{bound.quantity.name} has two bounds, {other.text} and {bound.text}: give one")
    return tuple(bounds[name] for name in QUANTITIES if name in bounds)


@dataclass(frozen=True)
class ConstraintCheck:
    """What an arch has of a bounded quantity, and whether that is within the bound.

    Attributes:
        quantity: its name.
        unit: of the next two; "" for plain numbers.
        value: what the arch has.
        bound: the most that it may have.
        met: whether it has no more.
    """

    quantity: str
    unit: str
    value: float
    bound: float
    met: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Constraint:
    """A cost model and the most that an arch may have by it."""

    model: CostModel
    bound: float

    @property
    def quantity(self) -> Quantity:
        """What is bounded."""
        return self.model.quantity

    @property
    def text(self) -> str:
        """``params<=4.5M``."""
        return Bound(self.quantity, self.bound).text

    @property
    def may_bind(self) -> bool:
        """Whether some arch of the space may violate it."""
        return self.model.most > self.bound

    def met(self, choice: Choice) -> bool:
        """Whether an arch is within the bound."""
        return self.model.value(choice) <= self.bound

    def check(self, choice: Choice) -> ConstraintCheck:
        """The arch's value beside the bound."""
        quantity, value = self.quantity, self.model.value(choice)
        return ConstraintCheck(quantity.name, quantity.unit, value, self.bound, value <= self.bound)

    def require_reachable(self) -> None:
        """ConstraintError with the reachable range when every arch has more than the bound."""
        least, most, quantity = self.model.least, self.model.most, self.quantity
        if least <= self.bound:
            return
        what = "a latency target" if quantity is LATENCY else f"a bound on {quantity.name}"
        unit = f" {quantity.unit}" if quantity.unit else ""
        low = quantity.text(least).removesuffix(unit)
        raise ConstraintError(
            f"no net of this space meets {what} of {quantity.text(self.bound, 6)}: "
            f"reachable are {low} to {quantity.text(most)}"
        )


def constraints_of(bounds: Iterable[Bound], sources: CostSources) -> tuple[Constraint, ...]:
    """The bounds with the cost models of a space."""
    return tuple(Constraint(bound.quantity.build(sources), bound.value) for bound in bounds)


def latency_constraint(costs: CostModel, target_ms: float | None) -> tuple[Constraint, ...]:
    """The latency target as a constraint; none without a target."""
    return () if target_ms is None else (Constraint(costs, target_ms),)


def require_feasible(constraints: Sequence[Constraint]) -> None:
    """ConstraintError where no arch meets one of the constraints, or all of them together.

    Together they are solved exactly where they are additive. Of others, what is refused is certainly out of reach:
    no candidates are left that each of them allows, or these do not fit into the additive ones.
    """
    for constraint in constraints:
        constraint.require_reachable()
    if len(constraints) < 2 or not is_infeasible(constraints):
        return
    ranges = []
    for constraint in constraints:
        others = [other for other in constraints if other is not constraint]
        least = _least_with(constraint, others)
        if least is not None:
            ranges.append(f"with {_listed(others)}, {constraint.quantity.name} is at least {least}")
    raise ConstraintError("; ".join([f"no net of this space meets {_listed(constraints)} together", *ranges]))


def _least_with(constraint: Constraint, others: Sequence[Constraint]) -> str | None:
    """The least of an additive quantity under other constraints, for people; None where it is not known."""
    if not isinstance(constraint.model, AdditiveCosts):
        return None
    choice = least_choice(constraint.model.cells, others)
    return None if choice is None else constraint.quantity.text(constraint.model.value(choice))


def _listed(constraints: Sequence[Constraint]) -> str:
    return " and ".join(constraint.text for constraint in constraints)


def merged(own: Sequence[Constraint], more: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """``more``, and those of ``own`` that bound other quantities; in the registry's order."""
    by_name: Mapping[str, Constraint] = {item.quantity.name: item for item in (*own, *more)}
    return tuple(by_name[name] for name in QUANTITIES if name in by_name)
