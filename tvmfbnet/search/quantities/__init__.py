"""The quantities that constraints may bound. To add one: a file here that defines it, and its line in the registry."""

from __future__ import annotations

from tvmfbnet.errors import ConstraintError
from tvmfbnet.search.cost_model import Quantity
from tvmfbnet.search.quantities.energy import ENERGY
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.macs import MACS
from tvmfbnet.search.quantities.params import PARAMS
from tvmfbnet.search.quantities.peak_memory import PEAK_MEMORY
from tvmfbnet.search.quantities.size import SIZE

_ALL = (LATENCY, PARAMS, MACS, SIZE, PEAK_MEMORY, ENERGY)
QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in _ALL}


def quantity_named(name: str) -> Quantity:
    """A registered quantity; ConstraintError lists those there are."""
    if name not in QUANTITIES:
        raise ConstraintError(f"no quantity is called {name[:40]!r}; there are {', '.join(QUANTITIES)}")
    return QUANTITIES[name]
