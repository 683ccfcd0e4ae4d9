"""The options of every command that trains nets, and the settings that they make with a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import TORCH_DEVICE_HELP

if TYPE_CHECKING:
    from tvmfbnet.training.config import TrainConfig

ConfigOption = Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Settings of the training.")]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
WarmupOption = Annotated[float | None, typer.Option(help="Of these, a linear rise of the learning rate.")]
BatchOption = Annotated[int | None, typer.Option(help="Images in a step.")]
RateOption = Annotated[float | None, typer.Option(help="Learning rate at its peak.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads.")]
DeviceOption = Annotated[str | None, typer.Option("--device", "--torch-device", help=TORCH_DEVICE_HELP)]


def training_settings(config: Path | None, **flags: Any) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings that a file and flags give, and what they say; a flag that is not None takes precedence.

    Raises:
        StorageError: the file cannot be read.
        ConfigError: unknown names or bad values; lists all of them.
    """
    from tvmfbnet.config import validate
    from tvmfbnet.files import read_yaml
    from tvmfbnet.training.config import TrainConfig

    settings = read_yaml(config) if config is not None else {}
    settings.update({name: value for name, value in flags.items() if value is not None})
    where = str(config) if config is not None else "training settings"
    return validate(TrainConfig, settings, where), settings
