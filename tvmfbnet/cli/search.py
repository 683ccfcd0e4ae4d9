"""``tvmfbnet search``: searches a space for the most accurate net within a latency target and other constraints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, TORCH_DEVICE_HELP, JsonFlag, MixableDtypeOption, TaskOption
from tvmfbnet.cli.search_output import print_plan, print_result
from tvmfbnet.cli.tables import TABLE_METAVAR, DeviceModelOption, space_table
from tvmfbnet.data.kinds import DATA_HELP
from tvmfbnet.search.evaluators import EVALUATOR_NAMES
from tvmfbnet.search.strategies import STRATEGY_NAMES

if TYPE_CHECKING:
    from tvmfbnet.search.constraints import Bound


def parse_latency(text: str) -> float:
    """``8ms``, ``800us``, ``0.01s`` or a plain number of milliseconds; BadParameter otherwise."""
    from tvmfbnet.errors import ConstraintError
    from tvmfbnet.search.quantities.latency import LATENCY

    if text.strip().endswith("%"):
        raise typer.BadParameter(
            f"{text[:40]!r} is no latency: write 8ms (search, sample and recipes take a share of the slowest net, 50%)"
        )
    try:
        return LATENCY.parse(text)
    except ConstraintError:
        raise typer.BadParameter(f"{text[:40]!r} is no latency: write {LATENCY.example}") from None


def latency_target_ms(text: str, slowest_ms: float) -> float:
    """Milliseconds of a latency target: a latency, or a share of the slowest net's such as ``50%``.

    Args:
        text: what the user wrote.
        slowest_ms: latency of the slowest net of the space.
    """
    from tvmfbnet.latency.table import target_by_share

    match = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]*)?)\s*%\s*", text)
    if match is None:
        return parse_latency(text)
    if not 0.0 < float(match[1]) <= 100.0:
        raise typer.BadParameter(f"{text!r} is no share of the slowest net's latency: write 1% to 100%, or a latency")
    return target_by_share(float(match[1]) / 100, slowest_ms)


ConstraintOption = Annotated[
    list[str] | None,
    typer.Option(metavar="QUANTITY<=BOUND", help="Only nets within this, such as params<=4.5M; may be repeated."),
]


def given_bounds(constraints: list[str] | None, latency_target: str | None) -> tuple[Bound, ...]:
    """What ``--constraint`` and ``--latency-target`` bound; ConstraintError where one quantity is bounded twice.

    A target that is a share is taken of 1 ms: without a table it can only be checked.
    """
    from tvmfbnet.errors import ConstraintError
    from tvmfbnet.search.constraints import Bound, parse_bounds
    from tvmfbnet.search.quantities.latency import LATENCY

    bounds = parse_bounds(constraints or ())
    if latency_target is None:
        return bounds
    if any(bound.quantity is LATENCY for bound in bounds):
        raise ConstraintError("latency has two bounds, by --constraint and by --latency-target: give one")
    return (Bound(LATENCY, latency_target_ms(latency_target, 1.0)), *bounds)


def with_bounds(settings: dict[str, Any], constraints: list[str] | None, latency_target: str | None) -> dict[str, Any]:
    """The settings with the flags' bounds, each of which goes before that of the settings on the same quantity."""
    from tvmfbnet.search.constraints import parse_bounds
    from tvmfbnet.search.quantities.latency import LATENCY

    bounds = {bound.quantity.name: bound for bound in given_bounds(constraints, latency_target)}
    texts = settings.get("constraints", [])
    if not bounds or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return settings
    merged = {**{bound.quantity.name: bound for bound in parse_bounds(texts)}, **bounds}
    latency = merged.pop(LATENCY.name, None)
    target = {} if latency is None else {"latency_target_ms": latency.value}
    return {**settings, **target, "constraints": [bound.text for bound in merged.values()]}


def search_command(
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    data: Annotated[str, typer.Option(help=DATA_HELP)],
    task: TaskOption = None,
    target: Annotated[
        str | None, typer.Option(help="Measured latencies of this target: a name or a .yaml file.")
    ] = None,
    dtype: MixableDtypeOption = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar=TABLE_METAVAR,
            help="Use this table instead, or simulate a processor (simulated:gflops=16,gbps=8); needs no TVM at all.",
        ),
    ] = None,
    predict_missing: Annotated[
        bool, typer.Option("--predict-missing", help="Predict the cells that --latency-table lacks.")
    ] = False,
    device_model: DeviceModelOption = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    latency_target: Annotated[
        str | None,
        typer.Option(metavar="LATENCY", help="The most accurate net up to this: 8ms, or 50% of the slowest."),
    ] = None,
    constraint: ConstraintOption = None,
    strategy: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"How archs are searched: {', '.join(STRATEGY_NAMES)}.")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"How such a strategy judges archs: {', '.join(EVALUATOR_NAMES)}."),
    ] = None,
    front: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Search a whole Pareto front: the best nets up to N latency bounds, in one search."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the search; an interrupted one resumes.")] = Path("search"),
    config: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="Settings of the search.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, warm-up included.")] = None,
    warmup_epochs: Annotated[int | None, typer.Option(help="First epochs, which train weights only.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    train_images: Annotated[int | None, typer.Option(help="Number of training images to use.")] = None,
    loss: Annotated[str | None, typer.Option(help="additive or multiplicative.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str | None, typer.Option("--device", "--torch-device", help=TORCH_DEVICE_HELP)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched and how long it takes, and stop.")
    ] = False,
    dry_run_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            metavar="N",
            help="With --dry-run: take N whole steps, and tell their time and memory.",
        ),
    ] = None,
    gpu_tmacs: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1e6,
            metavar="RATE",
            help="With --dry-run: estimate one GPU by this many 1e12 multiply-accumulates per second.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, commented, for a --config file, and stop.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Search a space for the most accurate net that meets a latency target and other constraints.

    Flags go before the settings of --config; what neither names has FBNet's published value.

    Example: tvmfbnet search --target host --space fbnet_mini --data fashion_mnist --latency-target 0.3ms --out runs/s1
    """
    from tvmfbnet.advice import note
    from tvmfbnet.config import validate
    from tvmfbnet.data.places import check_data, with_task
    from tvmfbnet.dtypes import spelled_with_dtype, without_mixed
    from tvmfbnet.errors import UserError
    from tvmfbnet.files import read_yaml
    from tvmfbnet.latency.sources.source import Missing
    from tvmfbnet.preflight import check_all, require_writable_folder
    from tvmfbnet.search.config import SearchConfig
    from tvmfbnet.settings import commented_yaml
    from tvmfbnet.space.registry import load_space, spelled_like
    from tvmfbnet.targets.definition import measured_name
    from tvmfbnet.training.classes import fit_classes

    if not dry_run and not (dry_run_steps is None and gpu_tmacs is None):
        raise UserError("--dry-run-steps and --gpu-tmacs are options of --dry-run: add it")
    if (target is None) == (latency_table is None):
        raise UserError("give --target or --latency-table, one of the two")
    if target is not None:
        target = spelled_with_dtype(target, dtype)
    elif dtype is not None:
        raise UserError("--dtype chooses among the measurements of a --target: --latency-table has what it has")
    flags: dict[str, Any] = {
        "epochs": epochs,
        "warmup_epochs": warmup_epochs,
        "batch_size": batch_size,
        "train_images": train_images,
        "loss": loss,
        "seed": seed,
        "threads": threads,
        "device": device,
        "strategy": strategy,
        "evaluator": evaluator,
        "front": front,
    }
    settings = read_yaml(config) if config is not None else {}
    settings.update({name: value for name, value in flags.items() if value is not None})
    settings = with_bounds(settings, constraint, latency_target)
    checked = validate(SearchConfig, settings, str(config) if config is not None else "search settings")
    if print_config:
        print(commented_yaml(SearchConfig, settings), end="")
        return
    data = with_task(data, task)
    net_space = fit_classes(load_space(space), data)
    single = None if target is None else without_mixed(target)
    note(
        target=single,
        named=None if single is None else measured_name(single),
        space=spelled_like(space, net_space),
        tuning_logs=tuning_logs,
    )
    size = (net_space.height, net_space.width, net_space.input_channels, net_space.classes)
    check_all(lambda: check_data(data, *size), *([] if dry_run else [lambda: require_writable_folder(out)]))
    # Missing cells of a target are predicted, those of a foreign table only if asked.
    missing = Missing.PREDICT if target is not None or predict_missing else Missing.REFUSE
    table = space_table(net_space, target, latency_table, tuning_logs, device_model, missing=missing)
    fastest_ms, slowest_ms = table.range_ms(net_space)
    if latency_target is not None:
        checked = checked.model_copy(update={"latency_target_ms": latency_target_ms(latency_target, slowest_ms)})
    if dry_run:
        from tvmfbnet.search.dry_run import dry_run_search
        from tvmfbnet.search.forecast import forecast_search
        from tvmfbnet.search.gpu_estimate import estimate_gpu

        tried = None if dry_run_steps is None else dry_run_search(net_space, data, table, checked, dry_run_steps)
        expected = forecast_search(net_space, data, table, checked) if tried is None else tried.forecast
        estimate = estimate_gpu(net_space, checked, expected.plan, gpu_tmacs)
        print_plan(net_space, checked, (fastest_ms, slowest_ms), (expected, tried, estimate), as_json)
        return

    from tvmfbnet.api.search import search

    result = search(net_space, data, table, checked, out=out)

    from tvmfbnet.training.workers import is_first  # torch, which the search has loaded

    if is_first():  # of several processes that torchrun started, one speaks
        print_result(result, as_json)
