"""The settings of a pruning, without those of its trainings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tvmfbnet.config import MOST_EPOCHS, MOST_LATENCY_MS, Config
from tvmfbnet.errors import ConfigError
from tvmfbnet.training.config import TrainConfig

MOST_ROUNDS = 100

Scope = Literal["global", "layer", "adaptive"]
Share = Annotated[float, Field(gt=0, lt=1)]


class PruneConfig(Config):
    """Iterative magnitude pruning (Frankle and Carbin 2019, arXiv 1803.03635): train, prune, rewind, repeat."""

    remaining: tuple[Share, ...] = Field(
        (0.2,), min_length=1, max_length=100, description="shares of the weights to reach, one after the other"
    )
    rounds: int = Field(3, ge=1, le=MOST_ROUNDS, description="rounds to each share; each prunes the same fraction")
    scope: Scope = Field(
        "global",
        description="which weights go: the smallest of the whole net (global), the same share of every layer (layer), "
        "or the smallest by LAMP, which leaves more to small layers (adaptive)",
    )
    rewind_epochs: int = Field(
        0, ge=0, le=MOST_EPOCHS, description="rewind to the weights after this number of epochs; 0: the initial ones"
    )
    control: bool = Field(False, description="also train each net of a size asked for from other random weights")
    latency_target_ms: float | None = Field(
        None, gt=0, le=MOST_LATENCY_MS, description="remove channels until the net meets this; single weights if unset"
    )
    latency_target_share: Share | None = Field(
        None, description="in place of latency_target_ms: the share of what the dense net takes by the latency table"
    )
    multiple: int = Field(8, ge=1, le=1024, description="channels inside a narrowed block are a multiple of this")

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        given = self.model_fields_set
        if self.latency_target_ms is not None and self.latency_target_share is not None:
            raise ValueError("give latency_target_ms or latency_target_share, not both")
        if self.of_channels and given & {"remaining", "scope"}:
            raise ValueError("remaining and scope are of single weights: leave them out with a latency target")
        if not self.of_channels and "multiple" in given:
            raise ValueError("multiple is of channels, which are removed to meet a latency target: give one as well")
        return self

    @property
    def of_channels(self) -> bool:
        """Whether channels are removed, in place of single weights."""
        return self.latency_target_ms is not None or self.latency_target_share is not None

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if any(later >= earlier for earlier, later in zip(self.remaining, self.remaining[1:], strict=False)):
            raise ValueError(f"remaining: shares must fall, not {', '.join(f'{share:g}' for share in self.remaining)}")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the weights that each round trains with; the first one has all."""
        return geometric_levels(1.0, self.remaining, self.rounds)


def geometric_levels(first: float, goals: tuple[float, ...], rounds: int) -> tuple[float, ...]:
    """Falls from ``first`` to each of ``goals`` in ``rounds`` equal factors: to p in n rounds by p^(1/n) a round."""
    levels = [first]
    for goal in goals:
        factor = (goal / levels[-1]) ** (1 / rounds)
        start = levels[-1]
        levels += [start * factor**number for number in range(1, rounds)] + [goal]
    return tuple(levels)


def require_rewind_within(rewind_epochs: int, training: TrainConfig) -> None:
    """ConfigError where there is nothing left to train after the rewinding."""
    if rewind_epochs >= training.epochs:
        problem = f"rewind_epochs ({rewind_epochs}) must be below the training's epochs ({training.epochs})"
        raise ConfigError("prune settings", [problem])
