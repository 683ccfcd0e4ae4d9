"""``tvmfbnet latency fit`` and ``validate``: how good the predictions are, of blocks and of whole nets."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvmfbnet.cli.output import MOST_SEED, SPACE_HELP, DtypeOption, JsonFlag, checked_figure, print_json, print_table
from tvmfbnet.cli.tables import DeviceModelOption, LogsOption, stored_table

if TYPE_CHECKING:
    from tvmfbnet.latency.additivity import Study
    from tvmfbnet.space.arch import Arch
    from tvmfbnet.space.space import Space


class Scheme(StrEnum):
    """How the score holds out blocks."""

    random = "random"
    shape_out = "shape-out"


def fit(
    target: Annotated[str | None, typer.Option(help="Learn from this target: a name or a .yaml file.")] = None,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="Learn from this table instead.")] = None,
    dtype: DtypeOption = None,
    score: Annotated[
        Scheme, typer.Option(help="Hold out a random fifth of the blocks, or one whole layer shape after the other.")
    ] = Scheme.random,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of splits and trees.")] = 0,
    splits: Annotated[int, typer.Option(min=1, max=1000, help="Random 80/20 splits to score on.")] = 8,
    shapes_only: Annotated[
        bool, typer.Option("--shapes-only", help="Do without what tuning knows of the blocks' kernels.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the fitted regressor here (JSON); it predicts from shapes alone.")
    ] = None,
    device_model: DeviceModelOption = None,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the latency regressor and score it on held-out blocks.

    For blocks that were tuned it knows what their kernels take by themselves, held-out ones included: that is what it
    has for a block that was tuned but not timed. Other blocks it predicts from their shapes. --shapes-only scores it as
    for blocks that were never tuned.
    Example: tvmfbnet latency fit --target host --json.
    """
    from tvmfbnet.dtypes import spelled_with_dtype
    from tvmfbnet.errors import UserError
    from tvmfbnet.preflight import require_writable_file
    from tvmfbnet.progress import loading, step

    with loading("XGBoost"):
        from tvmfbnet.latency.cross_validation import FIGURES
        from tvmfbnet.latency.cross_validation import Scheme as SchemeName
        from tvmfbnet.latency.cross_validation import score as score_regressor
        from tvmfbnet.latency.origin import SIMULATED
        from tvmfbnet.latency.regressor import LatencyRegressor, PartPredictor
        from tvmfbnet.latency.table_io import read_table

    if (target is None) == (table is None):
        raise UserError("give either --target or --table")
    if target is None and dtype is not None:
        raise UserError("--dtype chooses among the measurements of a --target: --table has what it has")
    target = target and spelled_with_dtype(target, dtype)
    if out is not None:
        require_writable_file(out)
    loaded = read_table(table) if table is not None else stored_table(str(target), tuning_logs, device_model)
    # What predictions rest on: measured latencies, or of a simulated device simulated ones, never both.
    timed = {part: cell.latency_ms for part, cell in loaded.cells.items() if cell.source == loaded.basis}
    parts, latency_ms = list(timed), list(timed.values())
    kernel_ms = None if shapes_only else loaded.kernel_ms
    size = loaded.data_type.bytes
    named: SchemeName = "random" if score is Scheme.random else "shape-out"
    with step("fitting and scoring the regressor"):
        figures = score_regressor(parts, latency_ms, named, splits, seed, kernel_ms=kernel_ms, element_bytes=size)
        tuned = PartPredictor(parts, latency_ms, kernel_ms).tuned
        if out is not None:
            LatencyRegressor(seed, size, loaded.basis).fit(parts, latency_ms).save(out)
    if as_json:
        labels = {"labels": SIMULATED} if loaded.is_simulated else {}
        print_json({**{name: figures[name] for name in FIGURES}, **labels})
        return
    scheme = f"{splits} random 80/20 splits" if score is Scheme.random else "each layer shape held out"
    learned = "tuned kernels" if tuned == figures["n"] else f"tuned kernels ({tuned} samples) and shapes"
    print_table(
        f"{loaded.name}: {figures['n']} {loaded.basis} samples, {scheme}, from {learned if tuned else 'shapes'}",
        ("figure", "value"),
        [
            ("MAPE", f"{figures['mape']:.1%} (plain xgboost: {figures['baseline_mape']:.1%})"),
            ("within 10 %", f"{figures['within_10']:.1%}"),
            ("rank correlation", f"{figures['spearman']:.3f}"),
            ("inside the 90 % interval", f"{figures['coverage_90']:.1%}"),
        ],
    )


def validate(
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    dtype: DtypeOption = None,
    count: Annotated[int, typer.Option("-n", "--count", min=5, max=100_000, help="How many whole nets to time.")] = 40,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Draw half of the nets from the theta of this search.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of archs and folds.")] = 0,
    stored: Annotated[bool, typer.Option("--stored", help="Time and store nothing: use nets in the journal.")] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=checked_figure, help="Draw predicted against measured (.png, .svg or .pdf)."
        ),
    ] = None,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Time whole nets on the device, compare them with the sum of their blocks, and store the correction they support.

    Resumes where it was stopped. Example: tvmfbnet latency validate --target host --space fbnet -n 40
    """
    from tvmfbnet import interrupts
    from tvmfbnet.advice import note
    from tvmfbnet.dtypes import spelled_with_dtype
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.repository import journal_path, load_table
    from tvmfbnet.preflight import check_all, require_writable_file
    from tvmfbnet.progress import loading, step
    from tvmfbnet.provisioning.ready import require_ready
    from tvmfbnet.space.registry import load_space
    from tvmfbnet.targets.definition import load_target, resolve

    if stored and run is not None:
        raise UserError("--stored times nothing, so --run has nothing to draw for; give one of the two")
    target = spelled_with_dtype(target, dtype)
    loaded_target, loaded_space = load_target(target), load_space(space)
    note(target=target, named=loaded_target.name, space=space, tuning_logs=tuning_logs)
    check_all(
        *([] if figure is None else [lambda: require_writable_file(figure)]),
        *([] if stored else [lambda: require_ready(loaded_target)]),
    )
    if not journal_path(loaded_target.name, tuning_logs).exists():
        load_table(loaded_target.name, tuning_logs)  # says that nothing was measured

    from dataclasses import replace

    interrupts.promise_resume()
    with loading():
        from tvmfbnet.latency.additivity import net_measurements, save_study, study
        from tvmfbnet.latency.journal import Journal
        from tvmfbnet.latency.lock import target_lock
        from tvmfbnet.latency.repository import correction_path, target_folder
        from tvmfbnet.latency.sources.source import latency_table
        from tvmfbnet.latency.sources.target import TargetSource
        from tvmfbnet.profiling.parts import context_of

    archs = _archs(loaded_space, count, run, seed)

    name, context = loaded_target.name, context_of(resolve(loaded_target))
    load_table(name, tuning_logs, context)  # says at once that nothing was measured in this context
    if stored:
        nets = net_measurements(Journal(journal_path(name, tuning_logs)).read(), loaded_space, context)
    else:
        with loading():
            from tvmfbnet.deploy.whole_nets import measure_nets

        nets = measure_nets(loaded_space, loaded_target, archs, tuning_logs)
    for item in nets.values():  # all of one device: the table is that one's
        context = replace(item.context, protocol=context.protocol)
        break
    # The plain table: it is the one whose sums are compared.
    table = latency_table(TargetSource(name, tuning_logs, context), loaded_space, correct=False)
    measured = {arch: item.at_table_speed_ms for arch, item in nets.items()}
    with step("comparing the nets with the sums of their blocks", patience=2.0):
        compared = study(table, loaded_space, measured, seed)
    if not stored:  # who only looks at what is there changes nothing
        with target_lock(target_folder(name, tuning_logs)):
            save_study(compared, table, correction_path(name, loaded_space, table.context, tuning_logs))
    if figure is not None:
        from tvmfbnet.files import write_atomically
        from tvmfbnet.report.figures import additivity

        drawn = additivity(compared, name)
        write_atomically(figure, lambda path: drawn.savefig(path, format=figure.suffix[1:].lower(), dpi=150))
    _print_study(compared, name, [item.pace for item in nets.values() if item.pace is not None], as_json)


def _archs(space: Space, count: int, run: Path | None, seed: int) -> list[Arch]:
    """Archs drawn with equal probability; with a search's folder half of them from its theta."""
    import random

    from tvmfbnet.errors import UserError
    from tvmfbnet.space.arch import Arch
    from tvmfbnet.space.arch_text import parse_arch

    drawn: list[Arch] = []
    if run is not None:
        from tvmfbnet.search.search import read_result, sample_run
        from tvmfbnet.space.space import Space as SpaceClass

        searched = SpaceClass.from_dict(read_result(run)[1]["space"])
        if searched.layers != space.layers:
            raise UserError(f"{run} searched space {searched.name}, whose layers are not those of {space.name}")
        drawn = [parse_arch(candidate.arch, space) for candidate in sample_run(run, count // 2, seed)]
    rng = random.Random(seed)
    wanted = min(count, space.size)
    distinct = dict.fromkeys(drawn)
    while len(distinct) < wanted:
        distinct.setdefault(Arch(tuple(rng.choice(layer.blocks) for layer in space.layers)))
    return list(distinct)


def _print_study(compared: Study, target: str, paces: Sequence[float], as_json: bool) -> None:
    pace = sum(paces) / len(paces) if paces else None
    if as_json:
        print_json({"target": target, "pace": pace, **compared.to_dict()})
        return
    rows = [
        (
            name,
            f"{agreement.bias:+.2%}",
            f"{agreement.mean_error:.2%}",
            f"{agreement.spearman:.4f}",
            f"{agreement.kendall:.4f}",
            f"{agreement.worst_error:+.2%}",
        )
        for name, agreement in (("sum of blocks", compared.agreement), ("corrected", compared.corrected))
    ]
    columns = ("prediction", "bias", "MAPE", "Spearman", "Kendall", "worst")
    print_table(f"{target}: {len(compared.records)} whole nets of {compared.space}, {compared.source}", columns, rows)
    if pace is not None:
        print(
            f"the nets' own blocks, timed with them, took {pace:.3f}x the table's latency: "
            "the device's speed factor, divided out of the nets' latencies"
        )
    print(f"worst for the sum: {compared.agreement.worst}")
    tried = ", ".join(f"{kind} {error:.2%}" for kind, error in compared.errors.items())
    print(f"MAPE in cross-validation: {tried}")
    said = compared.correction.describe()
    print(f"correction: {compared.correction.kind}: {said}" if said else "the data supports no correction")
