"""What quantities in bytes have in common: how they are written. A kilobyte is a thousand bytes, a kibibyte 1024."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvmfbnet.search.cost_model import CostModel, CostSources, Quantity
from tvmfbnet.space.space import Space

_SUFFIXES = {
    "GB": 1e9,
    "MB": 1e6,
    "kB": 1e3,
    "KB": 1e3,
    "GiB": 2.0**30,
    "MiB": 2.0**20,
    "KiB": 2.0**10,
    "B": 1.0,
    "": 1.0,
}


def in_bytes(
    name: str,
    example: str,
    description: str,
    build: Callable[[CostSources], CostModel],
    load: Callable[[Mapping[str, Any], Space], CostModel],
) -> Quantity:
    """A quantity whose unit is the byte; the arguments are those of :class:`tvmfbnet.search.cost_model.Quantity`."""
    return Quantity(
        name=name,
        unit="B",
        suffixes=_SUFFIXES,
        shown=("GB", "MB", "kB", "B"),
        largest=1e15,
        example=example,
        description=description,
        build=build,
        load=load,
    )
