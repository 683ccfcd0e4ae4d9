"""Peak memory of the activations, in bytes: the static memory plan of the net (:mod:`tvmfbnet.space.memory_plan`).

It does not add up over layers, nor is it the largest of them: a storage that an early layer enlarged serves later ones.
So an arch's value is worked out from the whole arch. What holds for one candidate alone is a lower bound by liveness:
no plan takes less than what is live at once while that block runs, and a candidate above the bound is in no arch that
meets it. That is all that exact solvers need besides :meth:`PeakMemory.value` (see
:meth:`tvmfbnet.search.cost_model.CostModel.allowed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tvmfbnet.dtypes import DType, dtype_named
from tvmfbnet.errors import ConstraintError, UserError
from tvmfbnet.search.cost_model import Choice, CostSources, Quantity
from tvmfbnet.search.quantities.bytes import in_bytes
from tvmfbnet.search.quantities.kernels import require_known_kernels
from tvmfbnet.space.activations import Output, outputs_of
from tvmfbnet.space.head_activations import HeadOutputs, head_outputs
from tvmfbnet.space.heads import CLASSIFIER
from tvmfbnet.space.memory_plan import live_bytes, peak_bytes
from tvmfbnet.space.space import NetPart, Space

# Values kept: strategies ask for the same archs again.
_KEPT = 100_000


@dataclass(frozen=True)
class PeakMemory:
    """The cost model of a space in a dtype.

    Args:
        space: whose archs.
        dtype: of the activations; int8 codes take a byte.
        cells: for each layer and candidate what is live at once while its block runs.
        fixed: the same of the stem and of a classifier; of another head its largest tensor.
        batch: images of a call: all activations are as many times as large.
    """

    space: Space = field(repr=False)
    dtype: DType
    cells: tuple[tuple[float, ...], ...]
    fixed: float
    batch: int = 1
    _values: dict[Choice, float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, space: Space, dtype: DType, batch: int = 1) -> PeakMemory:
        """Of every arch of a space."""

        def live(part: NetPart) -> float:
            image = part == space.stem
            taken = 0 if image else part.cin * part.height * part.width * dtype.bytes
            return float(batch * max(live_bytes(outputs_of(part, dtype), taken), taken))

        layers = tuple(tuple(live(layer.cell(block)) for block in layer.blocks) for layer in space.layers)
        if space.head_kind == CLASSIFIER:
            return cls(space, dtype, layers, max(map(live, space.fixed_parts())), batch)
        largest = batch * max(output.bytes for output in head_outputs(space, dtype).kernels)
        return cls(space, dtype, layers, max(live(space.stem), float(largest)), batch)

    @property
    def quantity(self) -> Quantity:
        """Peak memory."""
        return PEAK_MEMORY

    @cached_property
    def least(self) -> float:
        """No arch has less: one block of each layer is live at least."""
        return max(self.fixed, *(min(row) for row in self.cells))

    @cached_property
    def most(self) -> float:
        """The largest that single changes from the largest blocks lead to; tells the range, decides nothing."""
        choice = tuple(row.index(max(row)) for row in self.cells)
        best = self.value(choice)
        for layer, row in enumerate(self.cells):
            for index in range(len(row)):
                changed = (*choice[:layer], index, *choice[layer + 1 :])
                if self.value(changed) > best:
                    choice, best = changed, self.value(changed)
        return best

    @cached_property
    def _outputs(self) -> tuple[list[list[tuple[Output, ...]]], tuple[Output, ...], HeadOutputs]:
        def of(part: NetPart) -> tuple[Output, ...]:
            return outputs_of(part, self.dtype)

        layers = [[of(layer.cell(block)) for block in layer.blocks] for layer in self.space.layers]
        return layers, of(self.space.stem), head_outputs(self.space, self.dtype)

    def value(self, choice: Sequence[int]) -> float:
        """Of the arch that takes candidate ``choice[l]`` in layer l."""
        key = tuple(int(index) for index in choice)
        if key not in self._values:
            if len(self._values) >= _KEPT:
                self._values.clear()
            layers, stem, head = self._outputs
            blocks = [row[index] for row, index in zip(layers, key, strict=True)]
            peak = peak_bytes([stem, *blocks, head.kernels], head.maps, head.returned)
            self._values[key] = float(self.batch * peak)
        return self._values[key]

    def spread(self, choice: Sequence[int]) -> float:
        """It is exact."""
        return 0.0

    def measured_share(self, choice: Sequence[int]) -> float:
        """It is exact."""
        return 1.0

    def allowed(self, bound: float) -> tuple[tuple[bool, ...], ...]:
        """For each layer and candidate whether an arch within the bound may have it: what is live then fits."""
        fits = self.fixed <= bound
        return tuple(tuple(fits and cell <= bound for cell in row) for row in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        batch = {"batch": self.batch} if self.batch > 1 else {}
        return {"dtype": self.dtype.name, **batch, "cells_B": [list(row) for row in self.cells], "fixed_B": self.fixed}


def _build(sources: CostSources) -> PeakMemory:
    if sources.is_mixed:  # storages of different dtypes are not shared, and which block has which is chosen later
        raise ConstraintError("a bound on peak_memory is not for mixed dtypes: bound it in float32 or in int8")
    require_known_kernels(sources.space, "peak_memory")
    try:
        return PeakMemory.of(sources.space, sources.data_type, sources.images)
    except UserError as error:
        raise ConstraintError(f"a bound on peak_memory is not for this net: {error}") from error


def _load(record: Mapping[str, Any], space: Space) -> PeakMemory:
    """ValueError where it is not of ``space``."""
    model = PeakMemory.of(space, dtype_named(record["dtype"]), int(record.get("batch", 1)))
    recorded = tuple(tuple(float(cell) for cell in row) for row in record["cells_B"])
    if recorded != model.cells:
        raise ValueError("peak_memory is not that of the space")
    return model


PEAK_MEMORY = in_bytes(
    "peak_memory",
    example="2MB, 800kB or 12000B",
    description="bytes that the activations take at once by the static memory plan of the compiled net",
    build=_build,
    load=_load,
)
