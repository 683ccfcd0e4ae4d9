"""The options of every command that trains nets, and the settings that they make with a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import TORCH_DEVICE_HELP

if TYPE_CHECKING:
    from tvmfbnet.training.config import TrainConfig

ConfigOption = Annotated[
    str | None, typer.Option(metavar="NAME_OR_FILE", help="Settings of the training: paper, short, or a .yaml file.")
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
WarmupOption = Annotated[float | None, typer.Option(help="Of these, a linear rise of the learning rate.")]
BatchOption = Annotated[int | None, typer.Option(help="Images in a step.")]
RateOption = Annotated[float | None, typer.Option(help="Learning rate at its peak.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads.")]
DeviceOption = Annotated[str | None, typer.Option("--device", "--torch-device", help=TORCH_DEVICE_HELP)]


def training_settings(config: str | None, **flags: Any) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings that a file and flags give, and what they say; a flag that is not None takes precedence.

    Raises:
        StorageError: the file cannot be read.
        ConfigError: unknown names or bad values; lists all of them.
    """
    from tvmfbnet.config import validate
    from tvmfbnet.files import read_yaml
    from tvmfbnet.training.config import TrainConfig
    from tvmfbnet.training.recipe import training_recipe

    file = None if config is None else training_recipe(config)
    settings = {} if file is None else read_yaml(file)
    settings.update({name: value for name, value in flags.items() if value is not None})
    where = "training settings" if file is None else str(file)
    return validate(TrainConfig, settings, where), settings
