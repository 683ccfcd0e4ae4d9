"""``tvmfbnet latency fit``: the latency regressor, fitted and scored."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.latency import LogsOption, app
from tvmfbnet.cli.output import JsonFlag, print_json, print_table


class Scheme(StrEnum):
    """How blocks are held out for the score."""

    random = "random"
    shape_out = "shape-out"


@app.command()
def fit(
    target: Annotated[str | None, typer.Option(help="Learn from this target's measurements.")] = None,
    table: Annotated[Path | None, typer.Option(metavar="FILE", help="Learn from this table instead.")] = None,
    score: Annotated[
        Scheme, typer.Option(help="Hold out a random fifth of the blocks, or one whole layer shape after the other.")
    ] = Scheme.random,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and trees.")] = 0,
    splits: Annotated[int, typer.Option(min=1, max=1000, help="Random 80/20 splits to score on.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Write the fitted regressor here (JSON).")] = None,
    tuning_logs: LogsOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit the latency regressor and score it on held-out blocks. Example: tvmfbnet latency fit --target host --json."""
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.foreign import read_table
    from tvmfbnet.latency.regressor import LatencyRegressor
    from tvmfbnet.latency.scoring import score as score_regressor
    from tvmfbnet.latency.store import load_table

    if (target is None) == (table is None):
        raise UserError("give either --target or --table")
    loaded = read_table(table) if table is not None else load_table(str(target), tuning_logs)
    known = {part: cell.latency_ms for part, cell in loaded.cells.items() if cell.source == "measured"}
    parts, latency_ms = list(known), list(known.values())
    figures = score_regressor(parts, latency_ms, "random" if score is Scheme.random else "shape-out", splits, seed)
    if out is not None:
        LatencyRegressor(seed).fit(parts, latency_ms).save(out)
    if as_json:
        print_json({"name": loaded.name, "score": score.value, "seed": seed, "splits": splits, **figures})
        return
    scheme = f"{splits} random 80/20 splits" if score is Scheme.random else "each layer shape held out"
    print_table(
        f"{loaded.name}: {figures['n']} samples, {scheme}",
        ("figure", "value"),
        [
            ("mean error", f"{figures['mape']:.1%} (plain xgboost: {figures['baseline_mape']:.1%})"),
            ("within 10 %", f"{figures['within_10']:.1%}"),
            ("rank correlation", f"{figures['spearman']:.3f}"),
            ("inside the 90 % interval", f"{figures['coverage_90']:.1%}"),
        ],
    )
