"""The schema of a search's checkpoint, checked before a search resumes from it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field

from tvmfbnet.training.checkpoint import State, Tensors


class SearchEpoch(State):
    """An epoch's record in the history: what the program itself reads of it. The other figures are for people."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    epoch: int
    phase: Literal["warm-up", "search"]
    temperature: float
    weight_accuracy: float
    expected_ms: float
    entropy: float
    data_wait: float
    theta: list[list[float]]


class SearcherState(State):
    """Everything that the next step depends on."""

    supernet: Tensors
    weight_optimiser: dict[str, Any]
    weight_average: Tensors | None = None
    theta_optimiser: dict[str, Any] | None = None
    theta_fit: Tensors | None = None
    weight_batches: dict[str, Any]
    theta_batches: dict[str, Any]
    generator: torch.Tensor
    price: float | None
    multipliers: dict[str, float] = Field(default_factory=dict)
    rng: dict[str, Any]
    epoch: int = Field(ge=0)
    step: int = Field(ge=0)
    sums: dict[str, float]
    history: list[SearchEpoch]
