"""``tvmfbnet train``: a found net, from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, TORCH_DEVICE_HELP, JsonFlag, print_json
from tvmfbnet.data.kinds import DATA_HELP


def train_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the training; an interrupted one resumes.")] = Path("training"),
    config: Annotated[
        str | None,
        typer.Option(metavar="NAME_OR_FILE", help="Settings of the training: paper, short, or a .yaml file."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="Of these, a linear rise of the learning rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its peak.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option("--device", "--torch-device", help=TORCH_DEVICE_HELP)] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, commented, for a --config file, and stop.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a net from scratch and test it; writes net.pt.

    Example: tvmfbnet train k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3 --space fbnet_mini --data fashion_mnist
    """
    from tvmfbnet.api.train import train
    from tvmfbnet.config import validate
    from tvmfbnet.files import read_yaml
    from tvmfbnet.settings import commented_yaml
    from tvmfbnet.training.config import TrainConfig
    from tvmfbnet.training.recipe import training_recipe

    flags: dict[str, Any] = {
        "epochs": epochs,
        "warmup_epochs": warmup_epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "threads": threads,
        "device": device,
    }
    file = None if config is None else training_recipe(config)
    settings = {} if file is None else read_yaml(file)
    settings.update({name: value for name, value in flags.items() if value is not None})
    checked = validate(TrainConfig, settings, "training settings" if file is None else str(file))
    if print_config:
        print(commented_yaml(TrainConfig, settings), end="")
        return
    result = train(arch, space, data, checked, out=out)

    from tvmfbnet.training.workers import is_first  # torch, which training has loaded

    if not is_first():  # of several processes that torchrun started, one speaks
        return
    if as_json:
        print_json({"test_accuracy": result.test_accuracy, "checkpoint": str(result.checkpoint)})
    else:
        print(f"test accuracy {result.test_accuracy:.2%}, net in {result.checkpoint}")
