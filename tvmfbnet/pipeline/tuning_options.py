"""The options of tuning: a recipe's ``tune`` section, and what a single call to tune may say besides."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tvmfbnet.config import MOST_SECONDS, MOST_TRIALS, Config, Seed

Quality = Literal["quick", "normal", "best"]


class TuneConfig(Config):
    """The run's budget for tuning and measuring."""

    trials: int | None = Field(
        default=None, ge=1, le=MOST_TRIALS, description="tuning trials in total; default 24 per task"
    )
    quality: Quality = Field(default="normal", description="without trials: 8, 24 or 96 trials per task")
    measure_share: float = Field(default=1.0, gt=0, le=1, description="share of blocks timed; the others are predicted")
    energy: str | None = Field(
        default=None,
        min_length=1,
        description="also measure energies, told by this source: auto, rapl, odpm, hwmon, battery, command:...",
    )
    seed: Seed = Field(default=0, description="seed of the search of schedules and the choice of blocks")
    batch: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="candidates per round; each kernel gets a first round, of 4 where the budget is below that",
    )


class TuneOptions(TuneConfig):
    """How much to tune and measure, and what. Earlier trials and measurements count.

    Example:
        >>> from tvmfbnet import TuneOptions
        >>> TuneOptions(quality="quick", blocks="k3_*").measure_share
        1.0
    """

    measure_share: float = Field(default=1.0, ge=0, le=1, description="share of blocks timed; the others are predicted")
    seconds: float | None = Field(
        default=None, gt=0, le=MOST_SECONDS, description="time budget for tuning; every task still gets a first round"
    )
    more: bool = Field(default=False, description="spend the budget on top of what earlier runs spent")
    blocks: str = Field(default="*", description="only blocks of these names, such as k3_*")
    arch: str | None = Field(default=None, description="only the blocks of this arch, and its head")
    learn_from: tuple[str, ...] = Field(
        default=(), description="targets whose trials tuning starts from, by name or .yaml file"
    )
