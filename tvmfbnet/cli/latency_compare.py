"""``tvmfbnet latency compare``: latency tables side by side, and one net in two dtypes or in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, checked_figure, print_json, print_table
from tvmfbnet.cli.tables import LogsOption, latency_source

if TYPE_CHECKING:
    from tvmfbnet.latency.comparison import Comparison, Pair
    from tvmfbnet.latency.side_by_side import SideBySide
    from tvmfbnet.latency.sources.source import LatencySource
    from tvmfbnet.latency.table import LatencyTable

# Parts that are listed unless --count says otherwise.
_LISTED = 15


def compare(
    first: Annotated[str, typer.Argument(help="A target, a table's file, or simulated:gflops=16,gbps=8.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    more: Annotated[list[str] | None, typer.Argument(help="Any number of further ones.")] = None,
    count: Annotated[
        int | None,
        typer.Option(
            *("-n", "--count"),
            min=1,
            max=1_000_000,
            help="How many parts to list (default: 15, or all of two dtypes).",
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="With float32 and int8 of one target: this net in each, and in both.")
    ] = None,
    space: Annotated[str | None, typer.Option(help=f"Of --arch. {SPACE_HELP}")] = None,
    blocks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="List and draw only these parts, such as k3_* or 'block/*/16-24/*'; repeatable."
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            callback=checked_figure,
            help="Draw the latency of the same blocks on each (.png, .svg or .pdf); without --blocks, of four layers.",
        ),
    ] = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Draw latencies as they are, not relative to each device's mean.")
    ] = False,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show targets side by side: ratios, rank correlations, the parts that differ most.

    Two dtypes of one target, host,dtype=float32 and host,dtype=float16, are listed by their ratio: where the second
    pays, and where it does not. With --arch and --space also what a net takes in each, and with each block in the
    faster of float32 and int8, conversions between them included.

    Bars of --figure are relative to each device's mean over all shared parts, as devices differ in speed: they show
    which blocks are cheap where.

    Example: tvmfbnet latency compare host pixel3
    """
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.comparison import compare_tables
    from tvmfbnet.latency.side_by_side import matching
    from tvmfbnet.latency.units import unit_for

    if (arch is None) != (space is None):
        raise UserError("--arch and --space belong together: give both or neither")
    if arch is not None and more:
        raise UserError("--arch compares one target in float32 and int8: name two tables")
    if absolute and figure is None:
        raise UserError("--absolute is about --figure: give both, or leave it out")
    nets = None if arch is None or space is None else _net_in_dtypes(first, second, arch, space, tuning_logs)
    texts = (first, second, *(more or []))
    tables = _tables([latency_source(text, tuning_logs) for text in texts])
    if more or figure is not None:
        several = _side_by_side(texts, tables, blocks or [], figure, absolute)
        if more:
            _print_several(several, blocks or [], count, as_json)
            return
    dtypes = tables[0].dtype_name, tables[1].dtype_name
    of_dtypes = tables[0].name == tables[1].name and dtypes[0] != dtypes[1]
    compared = compare_tables(tables[0], tables[1], by_ratio=of_dtypes)
    pairs = matching(compared.pairs, blocks or [])
    first, second = dtypes if of_dtypes else (table.name for table in tables)
    if as_json:
        parts = [
            {"name": p.part.name, "first_ms": p.first.latency_ms, "second_ms": p.second.latency_ms, "ratio": p.ratio}
            for p in pairs
        ]
        figures = {"median_ratio": compared.median_ratio, "spearman": compared.spearman, "n": len(compared.pairs)}
        absent = {
            "only_first": [part.name for part in compared.only_first],
            "only_second": [part.name for part in compared.only_second],
        }
        bases: dict[str, str] = {"first_basis": tables[0].basis, "second_basis": tables[1].basis}
        bases |= {"first_dtype": dtypes[0], "second_dtype": dtypes[1]}
        sums = {"first_sum_ms": compared.sums_ms[0], "second_sum_ms": compared.sums_ms[1]}
        counts = {"faster": compared.count(True), "slower": compared.count(False)}
        net = {} if nets is None else {"net": nets}
        about = {"first": first, "second": second, **bases, **figures, **sums, **counts}
        print_json({**about, "parts": parts, **absent, **net})
        return
    if of_dtypes:
        _print_dtypes(compared, pairs[:count], tables[0].name, dtypes)
        if nets is not None:
            _print_net(nets)
        return
    shown = pairs[: _LISTED if count is None else count]
    unit = unit_for(cell.latency_ms for p in shown for cell in (p.first, p.second))
    rows = [
        (
            *(p.part.name, unit.number(p.first.latency_ms), unit.number(p.second.latency_ms)),
            *(f"{p.ratio:.3g}", f"{p.relative:.2f}"),
        )
        for p in shown
    ]
    columns = ("part", f"{first}, {unit.name}", f"{second}, {unit.name}", f"{second} / {first}", "/ median ratio")
    print_table(f"{first} and {second}: the parts that differ most from the median ratio", columns, rows)
    print(
        f"{len(compared.pairs)} shared parts, median ratio {compared.median_ratio:.3g} ({second} / {first}), rank "
        f"correlation {compared.spearman:.3f}; only in {first}: {len(compared.only_first)}, only in {second}: "
        f"{len(compared.only_second)}"
    )
    for table in tables:
        if table.is_simulated:
            print(f"{table.name} is simulated by a model; no device took its latencies")


def _print_dtypes(compared: Comparison, shown: Sequence[Pair], target: str, dtypes: tuple[str, str]) -> None:
    """Two dtypes of one target: each part, where the second pays and where not, and all parts together."""
    from tvmfbnet.latency.units import unit_for

    first, second = dtypes
    unit = unit_for(cell.latency_ms for p in shown for cell in (p.first, p.second))
    words = {True: "pays", False: "does not pay", None: "no difference beyond noise"}
    rows = [
        (
            *(p.part.name, unit.number(p.first.latency_ms), unit.number(p.second.latency_ms)),
            *(f"{p.ratio:.3f}", words[p.faster]),
        )
        for p in shown
    ]
    columns = ("part", f"{first}, {unit.name}", f"{second}, {unit.name}", f"{second} / {first}", second)
    print_table(f"{target}: {first} and {second}, by the ratio of their latencies", columns, rows)
    sums_ms, whole = compared.sums_ms, unit_for(compared.sums_ms)
    print(
        f"{second} is faster in {compared.count(True)} of {len(compared.pairs)} parts and slower in "
        f"{compared.count(False)}; all parts once: {whole.text(sums_ms[0])} in {first}, {whole.text(sums_ms[1])} in "
        f"{second} (ratio {sums_ms[1] / sums_ms[0]:.3f}, median {compared.median_ratio:.3f})"
    )
    print(f"only in {first}: {len(compared.only_first)}, only in {second}: {len(compared.only_second)}")


def _tables(sources: Sequence[LatencySource]) -> list[LatencyTable]:
    """The tables of sources; those that compute their latencies are asked for the parts of the others."""
    from tvmfbnet.errors import UserError

    loaded = [None if source.computes else source.load() for source in sources]
    parts = list(dict.fromkeys(part for table in loaded if table is not None for part in table.cells))
    if not parts:
        raise UserError(
            f"{' and '.join(source.name for source in sources)} have no parts of their own: write one of them into a "
            "table first (latency export --space)"
        )
    return [source.load(parts) if table is None else table for source, table in zip(sources, loaded, strict=True)]


def _side_by_side(
    texts: Sequence[str], tables: Sequence[LatencyTable], blocks: Sequence[str], figure: Path | None, absolute: bool
) -> SideBySide:
    """The tables compared, and their figure if one is asked for."""
    from tvmfbnet.latency.side_by_side import matching, side_by_side

    several = side_by_side(list(zip(texts, tables, strict=True)))
    if figure is not None:
        from tvmfbnet.report.canvas import save
        from tvmfbnet.report.operators import default_operators, operator_bars

        rows = matching(several.parts, blocks) if blocks else default_operators(several)
        save(operator_bars(several, rows, absolute), figure)
    return several


def _print_several(several: SideBySide, blocks: Sequence[str], count: int | None, as_json: bool) -> None:
    """Three tables or more: their parts with a column for each, and how alike they rank these."""
    from tvmfbnet.latency.side_by_side import matching
    from tvmfbnet.latency.units import unit_for

    rows, labels, total = matching(several.by_disagreement, blocks), several.labels, len(several.parts)
    unshared = {name: [part.name for part in parts] for name, parts in several.unshared().items()}
    if as_json:
        about = [
            {"name": name, "basis": table.basis, "dtype": table.dtype_name, "mean_ms": mean_ms, "median_ratio": ratio}
            for name, table, mean_ms, ratio in zip(
                several.names, several.tables, several.means_ms, several.median_ratios, strict=True
            )
        ]
        parts = [
            {
                **{"name": row.part.name, "latency_ms": [cell.latency_ms for cell in row.cells]},
                **{"ratios": row.ratios, "disagreement": row.disagreement},
            }
            for row in rows
        ]
        print_json({"tables": about, "n": total, "spearman": several.spearman, "parts": parts, "unshared": unshared})
        return
    shown = rows[: _LISTED if count is None else count]
    unit = unit_for(cell.latency_ms for row in shown for cell in row.cells)
    print_table(
        f"{', '.join(labels)}: the parts whose relative cost differs most between devices",
        ("part", *(f"{label}, {unit.name}" for label in labels), *(f"{label} / {labels[0]}" for label in labels[1:])),
        [
            (
                *(row.part.name, *(unit.number(cell.latency_ms) for cell in row.cells)),
                *(f"{ratio:.3g}" for ratio in row.ratios[1:]),
            )
            for row in shown
        ],
    )
    print_table(
        f"rank correlation (Spearman) over {total} shared parts",
        ("", *labels),
        [(label, *(f"{rank:.3f}" for rank in ranks)) for label, ranks in zip(labels, several.spearman, strict=True)],
    )
    ratios = ", ".join(
        f"{ratio:.3g} ({label})" for label, ratio in zip(labels[1:], several.median_ratios[1:], strict=True)
    )
    print(f"median ratio to {labels[0]}: {ratios}; not in every table: " + _counts(unshared))


def _counts(unshared: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{len(parts)} of {name}" for name, parts in unshared.items() if parts) or "none"


def _net_in_dtypes(first: str, second: str, arch: str, space: str, logs: Path | None) -> dict[str, Any]:
    """What a net takes in float32, in int8, and with each unit in the faster one.

    Raises:
        UserError: the two are not one target in float32 and in int8.
    """
    from tvmfbnet.advice import note
    from tvmfbnet.dtypes import FLOAT32, INT8
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.mixed import fastest_dtypes
    from tvmfbnet.latency.sources.mixed import MixedSource
    from tvmfbnet.latency.sources.registry import kind_of
    from tvmfbnet.space.arch_text import format_arch, resolve_arch
    from tvmfbnet.space.registry import load_space
    from tvmfbnet.targets.definition import measured_dtype, measured_name

    named = [(measured_name(text), measured_dtype(text)) for text in (first, second) if kind_of(text) == "target"]
    if len(named) < 2 or named[0][0] != named[1][0] or {dtype for _, dtype in named} != {FLOAT32.name, INT8.name}:
        raise UserError("--arch compares one target in float32 and int8: host,dtype=float32 host,dtype=int8")
    note(space=space)
    net, net_space = resolve_arch(arch, load_space(space))
    tables = MixedSource(named[0][0], logs).tables_of(net, net_space)
    chosen = fastest_dtypes(tables, net, net_space)
    return {
        "arch": format_arch(net, net_space),
        "float32_ms": tables.float32.arch_ms(net, net_space),
        "int8_ms": tables.int8.arch_ms(net, net_space),
        "mixed_ms": chosen.latency_ms,
        "dtypes": dict(chosen.units),
        "conversions": chosen.conversions,
        "conversions_ms": chosen.conversions_ms,
        "mixed": chosen.describe(),
    }


def _print_net(net: Mapping[str, Any]) -> None:
    """One net in each dtype and in both."""
    from tvmfbnet.latency.units import unit_for

    unit = unit_for((net["float32_ms"], net["int8_ms"], net["mixed_ms"]))
    print(
        f"{net['arch']}: {unit.text(net['float32_ms'])} in float32, {unit.text(net['int8_ms'])} in int8, "
        f"{unit.text(net['mixed_ms'])} in mixed dtypes ({net['mixed']} of {unit.text(net['conversions_ms'])} together)"
    )
