"""``tvmfbnet prune``: a small net by pruning a large one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, print_json, print_table
from tvmfbnet.cli.shares import parse_share
from tvmfbnet.cli.training_options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    EpochsOption,
    RateOption,
    SeedOption,
    ThreadsOption,
    training_settings,
)
from tvmfbnet.data.kinds import DATA_HELP

if TYPE_CHECKING:
    from tvmfbnet.pruning.rounds import PruneResult


def prune_command(
    arch: Annotated[str | None, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")] = None,
    space: Annotated[str | None, typer.Option(help=SPACE_HELP)] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prune the net that this run found, trained as it was there.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the pruning; an interrupted one resumes. By default pruning, in a run's pruning."),
    ] = None,
    remaining: Annotated[
        list[float] | None,
        typer.Option(
            parser=parse_share,
            metavar="SHARE",
            help="Weights to reach, such as 20%; repeatable, each after --rounds more.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to each share; the same fraction goes in each.")] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPE",
            help="global: the net's smallest weights; layer: the same share of each; adaptive: by LAMP.",
        ),
    ] = None,
    rewind_epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Rewind to the weights after N epochs, not to the initial ones.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train each net of a size asked for from other random weights.")
    ] = False,
    latency_target: Annotated[
        str | None,
        typer.Option(metavar="LATENCY", help="Remove channels until the net takes 8ms, or 60% of the dense one."),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="For it: a target's name, FILE.csv, or simulated:gflops=16,gbps=8."),
    ] = None,
    multiple: Annotated[
        int | None, typer.Option(metavar="N", help="Channels inside a narrowed block: a multiple of N (8).")
    ] = None,
    config: ConfigOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchOption = None,
    lr: RateOption = None,
    seed: SeedOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Prune a net in rounds (lottery tickets): train, remove the smallest weights, rewind the others, repeat.

    Every round leaves a net.pt that other commands take. Zeros among the weights save no time on a device; narrower
    blocks do: --latency-target removes channels, those first that save most latency per loss of magnitude. With
    --run the net is a run's, and the run's report shows the rounds.

    Example: tvmfbnet prune k3_e6,k3_e6/k5_e3,k3_e6,k3_e6/k3_e6,k3_e3 --space fbnet_mini --data fashion_mnist --control
    """
    from tvmfbnet.advice import command
    from tvmfbnet.api.prune import prune, prune_run
    from tvmfbnet.cli.search import parse_latency
    from tvmfbnet.config import validate
    from tvmfbnet.errors import UserError
    from tvmfbnet.progress import say
    from tvmfbnet.pruning.config import PruneConfig

    training, changes = training_settings(
        config, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, threads=threads, device=device
    )
    given: dict[str, Any] = {
        "remaining": remaining or None,
        "rounds": rounds,
        "scope": scope,
        "rewind_epochs": rewind_epochs,
        "control": control or None,
        "multiple": multiple,
    }
    if latency_target is not None and latency_target.strip().endswith("%"):
        given["latency_target_share"] = parse_share(latency_target)
    elif latency_target is not None:
        given["latency_target_ms"] = parse_latency(latency_target)
    settings = validate(
        PruneConfig, {name: value for name, value in given.items() if value is not None}, "prune settings"
    )
    if run is not None:
        if not arch is space is data is None:
            raise UserError("a run says which net, space and data: give --run, or ARCH, --space and --data, not both")
        result = prune_run(run, settings, changes if config is None else training, table=latency_table, out=out)
    elif arch is None or space is None or data is None:
        raise UserError("which net? Give ARCH, --space and --data, or --run with the folder of a run")
    else:
        result = prune(arch, space, data, settings, training, table=latency_table, out=out or "pruning")
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)
    if run is not None and out is None:
        say(f"{command('report', run)} shows these rounds")


def _show(result: PruneResult) -> None:
    columns: dict[str, list[object]] = {
        "round": [each.round for each in result.rounds],
        "weights": [each.size.weights for each in result.rounds],
        "remaining": [f"{each.size.remaining:.1%}" for each in result.rounds],
        "predicted, ms": [each.size.latency_ms and f"{each.size.latency_ms:.4g}" for each in result.rounds],
        "accuracy": [f"{each.test_accuracy:.2%}" for each in result.rounds],
        "control": [each.control_accuracy and f"{each.control_accuracy:.2%}" for each in result.rounds],
        "net": [str(each.checkpoint) for each in result.rounds],
    }
    shown = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
    print_table("", list(shown), list(zip(*shown.values(), strict=True)))
