"""Cost models of archs: named quantities such as latency and parameters, and what each arch has of them.

A :class:`Quantity` says what is counted, in which unit, and how a bound on it is written. A :class:`CostModel` gives a
quantity's value for any arch of one space. Most quantities add up over layers (:class:`AdditiveCosts`); derivation
solves those exactly. Others, such as a peak over layers, only need :class:`CostModel`: derivation draws archs and
rejects those beyond the bound. Not to be confused with the cost model of tuning, which ranks schedules
(:mod:`tvmfbnet.autotune.cost_model`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tvmfbnet.dtypes import FLOAT32, MIXED, DType, dtype_named
from tvmfbnet.errors import ConstraintError
from tvmfbnet.space.space import Space

if TYPE_CHECKING:  # loads numpy, which settings do without
    from tvmfbnet.latency.table import LatencyTable

Choice = tuple[int, ...]
"""One candidate's index per layer: an arch, as numbers."""

# Relative rounding of a sum of costs.
_ROUNDING = 1e-9
_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*"


@dataclass(frozen=True)
class CostSources:
    """What cost models are built from.

    Attributes:
        space: the search space.
        table: its latencies; None where only quantities that follow from the space and the dtype are asked for.
        dtype: of the nets, or ``mixed``; where there is a table, its own counts.
        batch: images of a call; likewise.
    """

    space: Space
    table: LatencyTable | None = None
    dtype: str = FLOAT32.name
    batch: int = 1

    @property
    def images(self) -> int:
        """How many images a call of the nets computes."""
        return self.batch if self.table is None else self.table.batch

    @property
    def dtype_name(self) -> str:
        """The dtype of the nets, or ``mixed``."""
        return self.dtype if self.table is None else self.table.dtype_name

    @property
    def is_mixed(self) -> bool:
        """Whether a net's blocks may have different dtypes."""
        return self.dtype_name == MIXED

    @property
    def data_type(self) -> DType:
        """The dtype of the nets, which must be one."""
        return dtype_named(self.dtype_name)


@dataclass(frozen=True)
class Quantity:
    """A named quantity of an arch. All values are in ``unit``; bounds may be written with any of ``suffixes``.

    Attributes:
        name: as in ``params<=4.5M``.
        unit: of every value in code and files, and the suffix of their names there; "" for plain numbers.
        suffixes: how many units each accepted suffix stands for.
        shown: those of ``suffixes`` that values are printed with, largest first.
        largest: the largest bound that makes sense.
        example: a bound, for messages.
        description: one line for people.
        build: makes the cost model of a space.
        load: restores a cost model of this quantity from its :meth:`CostModel.to_dict`.
        follows_from_space: whether the space alone decides every value; others are part of a search's identity.
    """

    name: str
    unit: str
    suffixes: Mapping[str, float]
    shown: tuple[str, ...]
    largest: float
    example: str
    description: str
    build: Callable[[CostSources], CostModel] = field(compare=False)
    load: Callable[[Mapping[str, Any], Space], CostModel] = field(compare=False)
    follows_from_space: bool = False

    def parse(self, text: str) -> float:
        """A bound such as ``8ms`` or ``4.5M``, in :attr:`unit`; ConstraintError where it is none."""
        suffixes = "|".join(re.escape(suffix) for suffix in self.suffixes)
        match = re.fullmatch(rf"{_NUMBER}({suffixes})\s*", text)
        value = float(match[1]) * self.suffixes[match[2]] if match else 0.0
        if not 0 < value <= self.largest:
            raise ConstraintError(f"{text[:40]!r} is no bound on {self.name}: write {self.example}")
        return value

    def text(self, value: float, digits: int = 4) -> str:
        """A value for people: ``0.0812 ms``, ``4.512M``."""
        number, suffix = self._number(value, digits)
        return f"{number} {suffix}" if suffix == self.unit and suffix else f"{number}{suffix}"

    def exact(self, value: float) -> str:
        """A value as a bound is written, with all its digits: ``8ms``, ``4.5M``."""
        return "".join(self._number(value, 12))

    def _number(self, value: float, digits: int) -> tuple[str, str]:
        fitting = [suffix for suffix in self.shown if self.suffixes[suffix] <= abs(value)]
        suffix = fitting[0] if fitting else self.shown[-1]
        scaled = value / self.suffixes[suffix]
        number = f"{scaled:.{digits}g}"
        return (f"{scaled:.0f}" if "e+" in number else number), suffix


class CostModel(Protocol):
    """What every arch of one space has of a quantity.

    An implementation may compute :meth:`value` from the whole arch. One whose values add up over layers should be an
    :class:`AdditiveCosts`: only these steer theta during a differentiable search and are solved exactly.
    """

    @property
    def quantity(self) -> Quantity:
        """What is counted."""
        ...

    @property
    def least(self) -> float:
        """No arch has less."""
        ...

    @property
    def most(self) -> float:
        """No arch has more."""
        ...

    def value(self, choice: Sequence[int]) -> float:
        """Of the arch that takes candidate ``choice[l]`` in layer l."""
        ...

    def spread(self, choice: Sequence[int]) -> float:
        """One standard deviation of :meth:`value`; 0 where it is exact."""
        ...

    def measured_share(self, choice: Sequence[int]) -> float:
        """Share (0 to 1) of :meth:`value` that is measured or exact, not predicted."""
        ...

    def allowed(self, bound: float) -> tuple[tuple[bool, ...], ...]:
        """For each layer and candidate, False where no arch within the bound has it. True promises nothing.

        A lower bound allows no more than a higher one does.
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for :attr:`Quantity.load`."""
        ...


@dataclass(frozen=True)
class AdditiveCosts:
    """A cost model whose values add up: a fixed part that every arch has, plus one cell per layer.

    Args:
        quantity: what is counted.
        cells: for each layer one value per candidate (identity skips may be 0).
        fixed: stem, head and whatever else every arch has.
        spreads: one standard deviation of each cell; zeros if not given.
        predicted: which cells were predicted or simulated, not measured; none if not given.
        fixed_spread: one standard deviation of the fixed part.
        fixed_predicted: how much of the fixed part was predicted or simulated.
    """

    quantity: Quantity
    cells: tuple[tuple[float, ...], ...]
    fixed: float
    spreads: tuple[tuple[float, ...], ...] = ()
    predicted: tuple[tuple[bool, ...], ...] = ()
    fixed_spread: float = 0.0
    fixed_predicted: float = 0.0

    def __post_init__(self) -> None:
        if not self.spreads:
            object.__setattr__(self, "spreads", tuple((0.0,) * len(row) for row in self.cells))
        if not self.predicted:
            object.__setattr__(self, "predicted", tuple((False,) * len(row) for row in self.cells))

    @classmethod
    def from_dict(cls, quantity: Quantity, record: Mapping[str, Any]) -> AdditiveCosts:
        """From :meth:`to_dict`."""
        end = _suffix(quantity)
        names = (f"cells{end}", f"spreads{end}", "predicted")
        cells, spreads, predicted = (tuple(tuple(row) for row in record[name]) for name in names)
        fixed = (record[f"fixed_spread{end}"], record[f"fixed_predicted{end}"])
        return cls(quantity, cells, record[f"fixed{end}"], spreads, predicted, *fixed)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; names end in the unit (``cells_ms``)."""
        end = _suffix(self.quantity)
        return {
            f"cells{end}": [list(row) for row in self.cells],
            f"fixed{end}": self.fixed,
            f"spreads{end}": [list(row) for row in self.spreads],
            "predicted": [list(row) for row in self.predicted],
            f"fixed_spread{end}": self.fixed_spread,
            f"fixed_predicted{end}": self.fixed_predicted,
        }

    def require_shape(self, widths: Sequence[int]) -> None:
        """ValueError where there is not one non-negative number per candidate.

        Args:
            widths: how many candidates each layer has.
        """
        for name, rows in {"cells": self.cells, "spreads": self.spreads, "predicted": self.predicted}.items():
            if [len(row) for row in rows] != list(widths):
                raise ValueError(f"{name} does not have the shape of the space")
        if not all(isinstance(cell, int | float) and cell >= 0 for row in self.cells for cell in row):
            raise ValueError(f"{self.quantity.name} is not a number everywhere")
        if not all(isinstance(number, int | float) for number in (self.fixed, self.fixed_spread)):
            raise ValueError(f"{self.quantity.name} is not a number everywhere")

    @property
    def least(self) -> float:
        """Of the arch that has least."""
        return self.fixed + sum(min(row) for row in self.cells)

    @property
    def most(self) -> float:
        """Of the arch that has most."""
        return self.fixed + sum(max(row) for row in self.cells)

    def value(self, choice: Sequence[int]) -> float:
        """Of the arch that takes candidate ``choice[l]`` in layer l."""
        return self.fixed + sum(row[index] for row, index in zip(self.cells, choice, strict=True))

    def spread(self, choice: Sequence[int]) -> float:
        """One standard deviation of :meth:`value`, if the cells' errors are independent."""
        squares = (row[index] ** 2 for row, index in zip(self.spreads, choice, strict=True))
        return math.sqrt(self.fixed_spread**2 + sum(squares))

    def measured_share(self, choice: Sequence[int]) -> float:
        """Share (0 to 1) of :meth:`value` that is measured or exact, not predicted."""
        rows = zip(self.cells, self.predicted, choice, strict=True)
        predicted = self.fixed_predicted + sum(row[index] for row, guessed, index in rows if guessed[index])
        total = self.value(choice)
        return 1.0 - predicted / total if total > 0 else 1.0

    def allowed(self, bound: float) -> tuple[tuple[bool, ...], ...]:
        """For each layer and candidate whether it fits together with the least of the other layers."""
        spare = bound - self.least + _ROUNDING * bound
        return tuple(tuple(cell - min(row) <= spare for cell in row) for row in self.cells)

    def scaled(self, factor: float) -> AdditiveCosts:
        """The same costs, each multiplied: for a device that runs whole nets slower than their parts."""
        rows = tuple(tuple(cell * factor for cell in row) for row in self.cells)
        spreads = tuple(tuple(cell * factor for cell in row) for row in self.spreads)
        fixed = (self.fixed * factor, self.fixed_spread * factor, self.fixed_predicted * factor)
        return AdditiveCosts(self.quantity, rows, fixed[0], spreads, self.predicted, fixed[1], fixed[2])

    def padded(self) -> list[list[float]]:
        """The cells as (layers, most candidates), 0 where a layer has fewer candidates."""
        widest = max(len(row) for row in self.cells)
        return [list(row) + [0.0] * (widest - len(row)) for row in self.cells]


def _suffix(quantity: Quantity) -> str:
    return f"_{quantity.unit}" if quantity.unit else ""
