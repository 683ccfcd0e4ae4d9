"""tvmfbnet finds the most accurate ConvNet that meets a latency target on a real device.

    >>> import tvmfbnet as tf
    >>> space = tf.Space.load("fbnet_mini")
    >>> tf.format_arch(tf.parse_arch("k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3", space), space)
    'k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3'

The names below are the public ones; docs/reference/python.md describes them and says what stays stable. Each is loaded
when it is first used, so that importing the package costs nothing and a search on a table needs no TVM.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvmfbnet.api.compile import CompileOptions, compile
    from tvmfbnet.api.network import build_network, export_network
    from tvmfbnet.api.prune import prune
    from tvmfbnet.api.run import run
    from tvmfbnet.api.search import search
    from tvmfbnet.api.train import train
    from tvmfbnet.api.tune import forecast_tuning, tune
    from tvmfbnet.deploy.bench import BenchResult
    from tvmfbnet.deploy.package import Package
    from tvmfbnet.errors import (
        ArchError,
        CollapsedError,
        ConfigError,
        ConstraintError,
        DataError,
        DeviceError,
        DivergedError,
        LatencyError,
        MissingBlockError,
        MissingExtraError,
        OutOfMemoryError,
        PackageError,
        ParityError,
        RuntimeUnavailableError,
        StorageError,
        TvmfbnetError,
        UserError,
    )
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.nets.own_blocks import block
    from tvmfbnet.pipeline.recipe import Recipe
    from tvmfbnet.pipeline.result import RunResult
    from tvmfbnet.pipeline.tuning import TuneResult, TuningForecast
    from tvmfbnet.pipeline.tuning_options import TuneOptions
    from tvmfbnet.progress import Event, Message, WorkAdvanced, WorkEnded, WorkStarted, observing
    from tvmfbnet.pruning.config import PruneConfig
    from tvmfbnet.pruning.rounds import PruneResult, PruneRound
    from tvmfbnet.search.config import SearchConfig
    from tvmfbnet.search.constraints import ConstraintCheck
    from tvmfbnet.search.derive import ScoredArch
    from tvmfbnet.search.search import SearchResult
    from tvmfbnet.space.arch import Arch
    from tvmfbnet.space.arch_text import format_arch, parse_arch
    from tvmfbnet.space.space import Space
    from tvmfbnet.targets.definition import Target
    from tvmfbnet.training.config import TrainConfig
    from tvmfbnet.training.memory import keep_freed_memory
    from tvmfbnet.training.train import TrainResult

__version__ = "0.1.0"

__all__ = [
    "Arch",
    "ArchError",
    "BenchResult",
    "CollapsedError",
    "CompileOptions",
    "ConfigError",
    "ConstraintCheck",
    "ConstraintError",
    "DataError",
    "DeviceError",
    "DivergedError",
    "Event",
    "LatencyError",
    "LatencyTable",
    "Message",
    "MissingBlockError",
    "MissingExtraError",
    "OutOfMemoryError",
    "Package",
    "PackageError",
    "ParityError",
    "PruneConfig",
    "PruneResult",
    "PruneRound",
    "Recipe",
    "RunResult",
    "RuntimeUnavailableError",
    "ScoredArch",
    "SearchConfig",
    "SearchResult",
    "Space",
    "StorageError",
    "Target",
    "TrainConfig",
    "TrainResult",
    "TuneOptions",
    "TuneResult",
    "TuningForecast",
    "TvmfbnetError",
    "UserError",
    "WorkAdvanced",
    "WorkEnded",
    "WorkStarted",
    "__version__",
    "block",
    "build_network",
    "compile",
    "export_network",
    "forecast_tuning",
    "format_arch",
    "keep_freed_memory",
    "observing",
    "parse_arch",
    "prune",
    "run",
    "search",
    "train",
    "tune",
]

# Where each name is defined, by module. The imports above say the same to type checkers; a test compares both.
_HOMES = {
    "api.compile": ("CompileOptions", "compile"),
    "api.network": ("build_network", "export_network"),
    "api.prune": ("prune",),
    "api.run": ("run",),
    "api.search": ("search",),
    "api.train": ("train",),
    "api.tune": ("forecast_tuning", "tune"),
    "deploy.bench": ("BenchResult",),
    "deploy.package": ("Package",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "latency.table": ("LatencyTable",),
    "nets.own_blocks": ("block",),
    "pipeline.recipe": ("Recipe",),
    "pipeline.result": ("RunResult",),
    "pipeline.tuning": ("TuneResult", "TuningForecast"),
    "pipeline.tuning_options": ("TuneOptions",),
    "progress": ("Event", "Message", "WorkAdvanced", "WorkEnded", "WorkStarted", "observing"),
    "pruning.config": ("PruneConfig",),
    "pruning.rounds": ("PruneResult", "PruneRound"),
    "search.config": ("SearchConfig",),
    "search.constraints": ("ConstraintCheck",),
    "search.derive": ("ScoredArch",),
    "search.search": ("SearchResult",),
    "space.arch": ("Arch",),
    "space.arch_text": ("format_arch", "parse_arch"),
    "space.space": ("Space",),
    "targets.definition": ("Target",),
    "training.config": ("TrainConfig",),
    "training.memory": ("keep_freed_memory",),
    "training.train": ("TrainResult",),
}
_HOME_OF = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name == "search":  # the subpackage of that name, which is the function as well
        return importlib.import_module(f"{__name__}.search")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public(name)


def public(name: str) -> object:
    """The object behind a public name. What only an extra of the package brings is explained where it is missing."""
    from tvmfbnet.extras import explained

    with explained():
        return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
