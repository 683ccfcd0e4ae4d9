"""``tvmfbnet train``: a found net, from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, TaskOption, print_json
from tvmfbnet.cli.training_options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    EpochsOption,
    RateOption,
    SeedOption,
    ThreadsOption,
    WarmupOption,
    training_settings,
)
from tvmfbnet.data.kinds import DATA_HELP


def train_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    task: TaskOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the training; an interrupted one resumes.")] = Path("training"),
    config: ConfigOption = None,
    epochs: EpochsOption = None,
    warmup_epochs: WarmupOption = None,
    batch_size: BatchOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, commented, for a --config file, and stop.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a net from scratch and test it; writes net.pt.

    Example: tvmfbnet train k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3 --space fbnet_mini --data fashion_mnist
    """
    from tvmfbnet.api.train import train
    from tvmfbnet.data.places import with_task
    from tvmfbnet.settings import commented_yaml
    from tvmfbnet.training.config import TrainConfig

    checked, settings = training_settings(
        config,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        threads=threads,
        device=device,
    )
    if print_config:
        print(commented_yaml(TrainConfig, settings), end="")
        return
    result = train(arch, space, with_task(data, task), checked, out=out)

    from tvmfbnet.training.workers import is_first  # torch, which training has loaded

    if not is_first():  # of several processes that torchrun started, one speaks
        return
    if as_json:
        told = {"test_accuracy": result.test_accuracy, "metric": result.metric}
        print_json({**told, "checkpoint": str(result.checkpoint)})
    else:
        print(f"test {result.metric} {result.test_accuracy:.2%}, net in {result.checkpoint}")
