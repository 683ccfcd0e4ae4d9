"""A search problem: everything that a strategy searches with and is bound by, new or of a finished search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.loader import split_indices
from tvmfbnet.data.places import relocated
from tvmfbnet.errors import DataError
from tvmfbnet.files import clear_leftovers, folder_lock, make_folder
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Constraint
from tvmfbnet.search.cost_model import AdditiveCosts
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.result import advice_for, config_of, constraints_from, latency_of
from tvmfbnet.search.rungs import FINALISTS_FILE, SHORTER_FILES
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import seeded
from tvmfbnet.training.device import pick_device
from tvmfbnet.training.distilled_net import distilled_digest
from tvmfbnet.training.identity import identity_of, require_settings
from tvmfbnet.training.memory import memory_advice
from tvmfbnet.training.workers import Workers, is_first

# Settings that affect how a search runs, not its result.
_FREE_SETTINGS = frozenset(
    {"checkpoint_steps", "device", "threads", "save_memory", "loggers", "collapse_skip", "stop_on_collapse"}
)
# Settings of later versions, left out of an identity where they have the value that earlier versions implied.
_LATER_SETTINGS = {
    **{"strategy": "differentiable", "budget_images": None, "constraints": ()},
    **{"evaluator": "short_training", "budget_minutes": None, "front": None},
    **{"share_weights": False, "weight_paths": "theta", "window_share": 0.15, "step_paths": 1, "sandwich": False},
    **{"weight_ema": 0.0, "distil_from": None, "tune_steps": 0},
    **{"finalist_start": "scratch", "finalist_rungs": 1},
}
_FILES = (
    *("search.ckpt", "history.json", "metrics.csv", "archs.json", "search.json", FINALISTS_FILE),
    *SHORTER_FILES,
    *("evaluations.json", "budget.json", "supernet.ckpt", "spent.json", "front.json"),
)


@dataclass(frozen=True)
class SearchProblem:
    """What a strategy is given.

    Attributes:
        space: what may be searched.
        latency: of every candidate.
        constraints: what every arch must meet, the latency target among them.
        config: the settings, seed included.
        data: the images.
        data_spec: how the data set was named.
        workers: the processes that search together.
        out: the search's folder, locked for this search (or only read, see :func:`reopened_problem`).
    """

    space: Space
    latency: AdditiveCosts
    constraints: tuple[Constraint, ...]
    config: SearchConfig
    data: ImageData
    data_spec: str
    workers: Workers
    out: Path

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that must match for a search to resume."""
        return identity_of_search(self.config, self.space, self.latency, self.data.fingerprint, self.constraints)

    @property
    def others(self) -> tuple[Constraint, ...]:
        """The constraints but the latency target."""
        return tuple(constraint for constraint in self.constraints if constraint.quantity is not LATENCY)

    @cached_property
    def indices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The images that train weights, and those that archs are compared on."""
        config = self.config
        for_weights, others = split_indices(len(self.data.train), config.weight_share, config.seed, config.train_images)
        if min(len(for_weights), len(others)) < 2:
            raise DataError(f"{self.data.name} gives too few training images to divide: {len(self.data.train)}")
        return for_weights, others[: config.validation_images]


def identity_of_search(
    config: SearchConfig, space: Space, latency: AdditiveCosts, fingerprint: str, constraints: Sequence[Constraint]
) -> dict[str, Any]:
    """What a search is of.

    Args:
        config: its settings.
        space: its space.
        latency: its latencies.
        fingerprint: of its data set.
        constraints: those of ``config``, with their cost models.

    Raises:
        StorageError: the net to distil from cannot be read.
    """
    settings = {
        name: value
        for name, value in config.model_dump().items()
        if name not in _FREE_SETTINGS and (name not in _LATER_SETTINGS or value != _LATER_SETTINGS[name])
    }
    if config.distil_from is not None:
        settings["distil_from"] = distilled_digest(config.distil_from) or config.distil_from
    if "constraints" in settings:
        settings["constraints"] = ", ".join(settings["constraints"])
    measured = {
        f"{item.quantity.name} of blocks": item.model.to_dict()
        for item in constraints
        if item.quantity is not LATENCY and not item.quantity.follows_from_space
    }
    return identity_of(settings, space, fingerprint, **{"latency table": latency.to_dict()}, **measured)


def require_own(path: Path, recorded: Mapping[str, Any] | None, wanted: Mapping[str, Any], data_spec: str) -> None:
    """StorageError where a file in the search's folder is of another search; the data set is not compared.

    Args:
        path: the file.
        recorded: the identity in it.
        wanted: that of this search.
        data_spec: how its data set was named.
    """
    if recorded is None:
        require_settings(path, recorded, wanted, data_spec)
        return
    named = {name: value or "none" for name, value in _LATER_SETTINGS.items() if name in {*recorded, *wanted}}
    require_settings(path, {**named, **recorded}, {**named, **wanted}, data_spec)


@contextmanager
def locked_folder(out: Path) -> Iterator[None]:
    """Locks the folder for this search and removes partial files that a killed one left."""
    make_folder(out)
    with folder_lock(out, "a search") if is_first() else nullcontext():
        if is_first():
            clear_leftovers(*(out / name for name in _FILES))
        yield


@contextmanager
def reopened_problem(folder: Path, record: Mapping[str, Any], data_spec: str | None = None) -> Iterator[SearchProblem]:
    """The problem of a finished search, with the random generators seeded as they were.

    Args:
        folder: the search's.
        record: of :func:`tvmfbnet.search.result.read_result`.
        data_spec: where the data set lies now (a spec, or the folder alone), if it has moved.

    Raises:
        DataError: the data set is missing, or another one was given.
        OutOfMemoryError: says which settings need less.
    """
    config, space = config_of(folder, record), Space.from_dict(record["space"])
    with memory_advice("judging archs", advice_for(config)):
        data = _reopened_data(folder, record, space, data_spec)
        workers = Workers.alone(pick_device(config.device))
        constraints = constraints_from(folder, record)
        with seeded(config.seed, config.threads):
            yield SearchProblem(
                space, latency_of(record), constraints, config, data, str(record["data"]), workers, folder
            )


def _reopened_data(folder: Path, record: Mapping[str, Any], space: Space, data_spec: str | None) -> ImageData:
    """The data set of a finished search, where it lay or where it has moved to."""
    spec = record["data"] if data_spec is None else relocated(record["data"], data_spec)
    try:
        data = load_data(spec, space.height, space.width, space.input_channels, space.classes)
    except DataError as error:
        if data_spec is not None:
            raise
        raise DataError(
            f"{error} (the search had its data set there; if it has moved, say where with --data)"
        ) from error
    if record["fingerprint"] and data.fingerprint != record["fingerprint"]:
        raise DataError(
            f"{spec} is not the data set of the search in {folder} (its content differs): say with --data where that is"
        )
    return data
