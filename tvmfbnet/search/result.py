"""A finished search: its outcome ``search.json``, and the cost models and constraints that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from tvmfbnet.config import validate as validate_config
from tvmfbnet.dtypes import FLOAT32
from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, read_model
from tvmfbnet.run_files import LatencyOriginRecord
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.constraints import Bound, Constraint, ConstraintCheck, latency_constraint, merged
from tvmfbnet.search.cost_model import AdditiveCosts, CostSources
from tvmfbnet.search.derive import choice_of
from tvmfbnet.search.quantities import quantity_named
from tvmfbnet.search.quantities.latency import LATENCY, load_latency_costs
from tvmfbnet.search.strategies import StrategyName
from tvmfbnet.space.arch_text import parse_arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import damage_named


class CheckRecord(Stored):
    """What an arch has of a bounded quantity: see :class:`tvmfbnet.search.constraints.ConstraintCheck`."""

    quantity: str
    unit: str
    value: float
    bound: float
    met: bool


class Best(Stored):
    """The found arch: see :class:`tvmfbnet.search.derive.ScoredArch`.

    Products of probabilities, and accuracies that a model has smoothed, may lie a little beyond 0 and 1.
    """

    arch: str
    probability: float = Field(ge=-0.5, le=1.5)
    predicted_ms: float = Field(ge=0)
    accuracy: float | None = Field(default=None, ge=-0.5, le=1.5)
    spread_ms: float = Field(default=0.0, ge=0)
    constraints: list[CheckRecord] = Field(default_factory=list)
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
        costs: latency: :meth:`tvmfbnet.search.cost_model.AdditiveCosts.to_dict`.
        cost_models: the same of every other bounded quantity, by name.
        data: where the data set lay.
        fingerprint: of the data set; empty in files of earlier versions.
        config: the settings.
        notices: what to know about it (:mod:`tvmfbnet.search.notices`).
        strategy: how archs were searched.
        spent_images: what that cost, in training images; None in files of earlier versions.
        spent_seconds: the time that it took, all starts together; None in files of earlier versions.
        latency_source: where the latencies come from (:class:`tvmfbnet.latency.origin.LatencyOrigin`); likewise.
        dtype: of the nets by the latency table, or ``mixed``; files of earlier versions do not say.
        batch: images of a call by the latency table; likewise.
        weight_bytes: of the best net in its library; None where the target decides how weights are stored.
    """

    best: Best
    expected_ms: float = Field(ge=0)
    latency_target_ms: float | None = None
    theta: list[list[float]]
    health: dict[str, Any] = Field(default_factory=dict)
    space: dict[str, Any]
    costs: dict[str, Any]
    cost_models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    data: str
    fingerprint: str = ""
    config: dict[str, Any]
    notices: list[dict[str, str]] = Field(default_factory=list)
    strategy: StrategyName = "differentiable"
    spent_images: float | None = Field(default=None, ge=0)
    spent_seconds: float | None = Field(default=None, ge=0)
    latency_source: LatencyOriginRecord | None = None
    dtype: str = FLOAT32.name
    batch: int = Field(default=1, ge=1)
    weight_bytes: int | None = Field(default=None, ge=0)

    def require_consistent(self) -> None:
        """ValueError (or another exception, for contents of other types) where the parts do not fit each other."""
        space = Space.from_dict(self.space)
        load_latency_costs(self.costs, space)
        for name, record in self.cost_models.items():
            quantity_named(name).load(record, space)
        parse_arch(self.best.arch, space)
        if [len(row) for row in self.theta] != [len(layer.blocks) for layer in space.layers]:
            raise ValueError("theta does not have the shape of the space")


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


def config_of(folder: Path, record: Mapping[str, Any]) -> SearchConfig:
    """The settings of a finished search."""
    return validate_config(SearchConfig, record["config"], str(folder / "search.json"))


def latency_of(record: Mapping[str, Any]) -> AdditiveCosts:
    """The latencies of a finished search."""
    return load_latency_costs(record["costs"], Space.from_dict(record["space"]))


def constraint_from(record: Mapping[str, Any], bound: Bound) -> Constraint:
    """A bound on archs of a finished search, by the cost model that the search had or, if it had none, a new one."""
    space, name = Space.from_dict(record["space"]), bound.quantity.name
    if bound.quantity is LATENCY:
        return Constraint(latency_of(record), bound.value)
    if name in record["cost_models"]:
        return Constraint(bound.quantity.load(record["cost_models"][name], space), bound.value)
    return Constraint(
        bound.quantity.build(CostSources(space, dtype=record["dtype"], batch=record["batch"])), bound.value
    )


def constraints_from(folder: Path, record: Mapping[str, Any]) -> tuple[Constraint, ...]:
    """The constraints of a finished search, the latency target among them."""
    others = [constraint_from(record, bound) for bound in config_of(folder, record).bounds]
    return merged(latency_constraint(latency_of(record), record["latency_target_ms"]), others)


def checks_of(run: Path, arch: str) -> list[ConstraintCheck]:
    """What an arch of a finished search's space has of each bounded quantity.

    Args:
        run: the search's folder, or a run folder that holds it as ``search/``.
        arch: arch string.
    """
    folder, record = read_result(run)
    choice = choice_of(arch, Space.from_dict(record["space"]))
    return [constraint.check(choice) for constraint in constraints_from(folder, record)]
