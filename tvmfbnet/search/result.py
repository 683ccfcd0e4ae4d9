"""A finished search: its outcome ``search.json``, and how to reopen it to sample more archs or choose again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from tvmfbnet.config import validate as validate_config
from tvmfbnet.data.datasets import load_data
from tvmfbnet.data.images import ImageData
from tvmfbnet.data.places import relocated
from tvmfbnet.errors import DataError, StorageError
from tvmfbnet.files import Stored, read_model
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.costs import Costs
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import damage_named, load_checkpoint, seeded
from tvmfbnet.training.memory import memory_advice


class Best(Stored):
    """The found arch: see :class:`tvmfbnet.search.derive.ScoredArch`.

    Products of probabilities, and accuracies that a model has smoothed, may lie a little beyond 0 and 1.
    """

    arch: str
    probability: float = Field(ge=-0.5, le=1.5)
    predicted_ms: float = Field(ge=0)
    accuracy: float | None = Field(default=None, ge=-0.5, le=1.5)
    spread_ms: float = Field(default=0.0, ge=0)
    measured_share: float


class SearchRecord(Stored):
    """The content of ``search.json``.

    Attributes:
        best: the found arch.
        expected_ms: mean latency of archs sampled from theta.
        latency_target_ms: the target, if there was one.
        theta: one row per layer, as many numbers as it has candidates.
        health: figures of theta (:mod:`tvmfbnet.search.health`).
        space: :meth:`tvmfbnet.space.space.Space.to_dict`.
        costs: :meth:`tvmfbnet.search.costs.Costs.to_dict`.
        data: where the data set lay.
        fingerprint: of the data set; empty in files of earlier versions.
        config: the settings.
        notices: what to know about it (:mod:`tvmfbnet.search.notices`).
    """

    best: Best
    expected_ms: float = Field(ge=0)
    latency_target_ms: float | None = None
    theta: list[list[float]]
    health: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Any]
    costs: dict[str, Any]
    data: str
    fingerprint: str = ""
    config: dict[str, Any]
    notices: list[dict[str, str]] = Field(default_factory=list)

    def require_consistent(self) -> None:
        """ValueError (or another exception, for contents of other types) where the parts do not fit each other."""
        space, costs = Space.from_dict(self.space), Costs.from_dict(self.costs)
        parse_arch(self.best.arch, space)
        widths = [len(layer.blocks) for layer in space.layers]
        rows = {"theta": self.theta, "cells": costs.cells, "spreads": costs.spreads, "predicted": costs.predicted}
        for name, table in rows.items():
            if [len(row) for row in table] != widths:
                raise ValueError(f"{name} does not have the shape of the space")
        if not all(isinstance(cell, int | float) and cell >= 0 for row in costs.cells for cell in row):
            raise ValueError("latencies are not all numbers")
        if not all(isinstance(number, int | float) for number in (costs.fixed_ms, costs.fixed_spread_ms)):
            raise ValueError("latencies are not all numbers")


def read_result(run: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished search and its record ``search.json``.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    places = (run, run / "search")
    folder = next((place for place in places if (place / "search.json").is_file()), None)
    if folder is None:
        raise StorageError(f"{run} holds no finished search (no search.json): give the folder that search wrote to")
    record = read_model(folder / "search.json", SearchRecord)
    with damage_named(folder / "search.json", "run the search again"):
        record.require_consistent()
    return folder, record.model_dump()


def advice_for(config: SearchConfig) -> str:
    """What needs less memory than a search or a judge of its archs with these settings."""
    smaller = f"use a smaller batch_size (it is {config.batch_size})"
    return (
        f"{smaller}, save_memory: true, or weight_steps: sampled and theta_steps: sampled; where archs are judged, "
        f"fewer bn_images (it is {config.bn_images})"
    )


@contextmanager
def reopen(folder: Path, record: dict[str, Any], data_spec: str | None = None) -> Iterator[Searcher]:
    """A finished search as it was at its end.

    Args:
        folder: the search's.
        record: of :func:`tvmfbnet.search.result.read_result`.
        data_spec: where the data set lies now (a spec, or the folder alone), if it has moved.

    Raises:
        StorageError: the search's checkpoint is missing or damaged.
        DataError: the data set is missing, or another one was given.
        OutOfMemoryError: says which settings need less.
    """
    config = validate_config(SearchConfig, record["config"], str(folder / "search.json"))
    space, costs = Space.from_dict(record["space"]), Costs.from_dict(record["costs"])
    with memory_advice("judging archs", advice_for(config)):
        data = _reopened_data(folder, record, space, data_spec)
        saved = load_checkpoint(folder / "search.ckpt", "search")
        with seeded(config.seed, config.threads):
            searcher = Searcher(space, data, costs, config)
            with damage_named(folder / "search.ckpt", "search again"):
                searcher.load_state_dict(saved["searcher"])
            yield searcher


def _reopened_data(folder: Path, record: dict[str, Any], space: Space, data_spec: str | None) -> ImageData:
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
