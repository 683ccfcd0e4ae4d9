"""``tvmfbnet prune``: a small net by pruning a large one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, print_json, print_table
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
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the pruning; an interrupted one resumes.")] = Path("pruning"),
    remaining: Annotated[
        list[str] | None,
        typer.Option(metavar="SHARE", help="Weights to reach, such as 20%; repeatable, each after --rounds more."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to each share; the same fraction goes in each.")] = None,
    scope: Annotated[
        str | None, typer.Option(metavar="SCOPE", help="global: the net's smallest weights; layer: the same of each.")
    ] = None,
    rewind_epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Rewind to the weights after N epochs, not to the initial ones.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train each pruned net from other random weights.")
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
    blocks do: --latency-target removes channels, those first that save most latency per loss of magnitude.

    Example: tvmfbnet prune k3_e6,k3_e6/k5_e3,k3_e6,k3_e6/k3_e6,k3_e3 --space fbnet_mini --data fashion_mnist --control
    """
    from tvmfbnet.api.prune import prune
    from tvmfbnet.cli.search import parse_latency
    from tvmfbnet.config import validate
    from tvmfbnet.pruning.config import PruneConfig

    training, _ = training_settings(
        config, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, threads=threads, device=device
    )
    given: dict[str, Any] = {
        "remaining": [_share(text, "--remaining") for text in remaining] if remaining else None,
        "rounds": rounds,
        "scope": scope,
        "rewind_epochs": rewind_epochs,
        "control": control or None,
        "multiple": multiple,
    }
    if latency_target is not None and latency_target.strip().endswith("%"):
        given["latency_target_share"] = _share(latency_target, "--latency-target")
    elif latency_target is not None:
        given["latency_target_ms"] = parse_latency(latency_target)
    settings = validate(
        PruneConfig, {name: value for name, value in given.items() if value is not None}, "prune settings"
    )
    result = prune(arch, space, data, settings, training, table=latency_table, out=out)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)


def _share(text: str, option: str) -> float:
    """``20%`` or ``0.2``, as a number; UserError names the option otherwise."""
    from tvmfbnet.errors import UserError

    number = text.strip()
    try:
        return float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError as error:
        raise UserError(f"{option} {text[:40]!r} is no share: write 20% or 0.2") from error


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
