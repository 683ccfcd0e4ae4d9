"""The strategies that search a space. To add one: a file here with its name, and that name in the list below.

Every module offers ``STRATEGY``, a :class:`tvmfbnet.search.strategies.base.SearchStrategy`. Names are known without
loading any of them, as they load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tvmfbnet.search.strategies.base import SearchStrategy

StrategyName = Literal["differentiable", "bayesian", "evolution", "nsga2", "controller", "random"]

STRATEGY_NAMES: tuple[str, ...] = get_args(StrategyName)


def strategy_named(name: str) -> SearchStrategy:
    """A registered strategy."""
    if name not in STRATEGY_NAMES:
        raise ValueError(f"no strategy is called {name!r}")
    strategy: SearchStrategy = import_module(f"tvmfbnet.search.strategies.{name}").STRATEGY
    return strategy
