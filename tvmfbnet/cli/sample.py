"""``tvmfbnet sample``: more archs from the distribution that a search learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table


def sample_command(
    run: Annotated[Path, typer.Argument(help="Folder of a search, or of a run that holds one.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many archs.")] = 10,
    latency_target: Annotated[
        str | None, typer.Option(metavar="LATENCY", help="Leave out slower archs, such as 8ms.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Sample archs from a search's final theta, with their predicted latency, most probable first.

    Example: tvmfbnet sample runs/s1 -n 5 --latency-target 0.3ms
    """
    from tvmfbnet.cli.search import parse_latency
    from tvmfbnet.search.run import sample_run

    limit = parse_latency(latency_target) if latency_target is not None else None
    drawn = sample_run(run, count, seed, limit)
    if as_json:
        keys = ("arch", "probability", "predicted_ms")
        print_json([{key: candidate.to_dict()[key] for key in keys} for candidate in drawn])
    else:
        rows = [[c.arch, f"{c.predicted_ms:.4g}", f"{c.probability:.3g}"] for c in drawn]
        print_table("", ["arch", "predicted ms", "probability"], rows)
