"""Bytes of the weights as a compiled package stores them, exact: batch norm is folded, each conv has a bias.

Only for dtypes in which a weight is stored as it is. An integer kernel stores its weights as the target's instruction
reads them (:mod:`tvmfbnet.compiler.dot_products`), some of them widened, which a search does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvmfbnet.dtypes import DType
from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import AdditiveCosts, Choice, CostSources
from tvmfbnet.search.quantities.bytes import in_bytes
from tvmfbnet.search.quantities.kernels import require_known_kernels
from tvmfbnet.space.counts import convs_of
from tvmfbnet.space.head_activations import constant_bytes
from tvmfbnet.space.space import NetPart, Space


def _stored(part: NetPart, dtype: DType) -> float:
    return float(sum(conv.weights + conv.cout for conv in convs_of(part)) * dtype.bytes)


def size_costs(space: Space, dtype: DType) -> AdditiveCosts:
    """The bytes of every candidate's weights; ConstraintError for a quantised dtype."""
    if dtype.is_quantised:
        raise ConstraintError(
            f"a bound on size is not for {dtype.name}: how kernels store weights depends on the target; bound params"
        )
    layers = tuple(tuple(_stored(layer.cell(block), dtype) for block in layer.blocks) for layer in space.layers)
    fixed = sum(_stored(part, dtype) for part in space.fixed_parts()) + constant_bytes(space)
    return AdditiveCosts(SIZE, layers, fixed)


def _build(sources: CostSources) -> AdditiveCosts:
    if sources.is_mixed:
        raise ConstraintError("a bound on size is not for mixed dtypes: bound params")
    require_known_kernels(sources.space, "size")
    return size_costs(sources.space, sources.data_type)


def weight_bytes(sources: CostSources, choice: Choice) -> int | None:
    """The bytes of an arch's weights; None where a bound on them is refused."""
    try:
        return round(_build(sources).value(choice))
    except ConstraintError:
        return None


def _load(record: Mapping[str, Any], space: Space) -> AdditiveCosts:
    costs = AdditiveCosts.from_dict(SIZE, record)
    costs.require_shape([len(layer.blocks) for layer in space.layers])
    return costs


SIZE = in_bytes(
    "size",
    example="6MB, 800kB or 12000B",
    description="bytes of the weights in the package's library, exact; float32 and float16",
    build=_build,
    load=_load,
)
