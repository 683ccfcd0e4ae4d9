"""``tvmfbnet sample``: more archs from the distribution that a search learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import MOST_SEED, JsonFlag, checked_figure, print_json, print_table
from tvmfbnet.cli.search import ConstraintOption


def sample_command(
    run: Annotated[Path, typer.Argument(help="Folder of a search, or of a run that holds one.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, max=10_000, help="How many archs.")] = 10,
    latency_target: Annotated[
        str | None, typer.Option(metavar="LATENCY", help="Leave out slower archs: 8ms, or 50% of the slowest net.")
    ] = None,
    constraint: ConstraintOption = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the sampling.")] = 0,
    validate: Annotated[
        bool, typer.Option(help="Also judge each arch as the search does; needs the search's data set.")
    ] = True,
    data: Annotated[
        str | None, typer.Option(metavar="NEWPATH", help="Where the search's data set is now, if it was moved.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=checked_figure, help="Draw latency against accuracy (.png, .svg or .pdf)."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Sample archs from a search's final theta: probability, predicted latency, accuracy, Pareto front.

    Most probable first. An arch is on the front when no other one here is both faster and as accurate.

    Example: tvmfbnet sample runs/s1 -n 20 --latency-target 0.3ms --figure front.svg
    """
    from tvmfbnet.cli.search import given_bounds, latency_target_ms
    from tvmfbnet.cli.search_output import constraint_columns
    from tvmfbnet.errors import UserError
    from tvmfbnet.latency.units import unit_for
    from tvmfbnet.preflight import require_writable_file
    from tvmfbnet.progress import loading

    with loading("PyTorch"):
        from tvmfbnet.search.derive import pareto_front
        from tvmfbnet.search.quantities.latency import LATENCY
        from tvmfbnet.search.result import latency_of
        from tvmfbnet.search.search import read_result, sample_run
        from tvmfbnet.search.strategies import strategy_named

    if figure is not None:
        require_writable_file(figure)
    given = given_bounds(constraint, latency_target)
    limit = next((bound.value for bound in given if bound.quantity is LATENCY), None)
    bounds = [bound for bound in given if bound.quantity is not LATENCY]
    record = read_result(run)[1]
    if latency_target is not None and "%" in latency_target:
        limit = latency_target_ms(latency_target, latency_of(record).most)
    if figure is not None and not validate:
        raise UserError(f"--figure {figure}: a figure needs validated archs; leave out --no-validate")
    drawn = sample_run(run, count, seed, limit, validate, data, bounds)
    front = {candidate.arch for candidate in pareto_front(drawn)}
    if figure is not None:
        from tvmfbnet.report.pareto import write_pareto_figure

        write_pareto_figure(drawn, limit, figure)
    if as_json:
        print_json([{**candidate.to_dict(), "on_front": candidate.arch in front} for candidate in drawn])
        return
    unit = unit_for(c.predicted_ms for c in drawn)
    bounded, bounded_rows = constraint_columns(drawn)
    rows = [
        [
            c.arch,
            unit.number(c.predicted_ms),
            unit.number(c.spread_ms, 2),
            *cells,
            f"{c.probability:.3g}",
            "" if c.accuracy is None else f"{c.accuracy:.2%}",
            "front" if c.arch in front else "",
        ]
        for c, cells in zip(drawn, bounded_rows, strict=True)
    ]
    label = strategy_named(record["strategy"]).accuracy_label
    simulated = (record["latency_source"] or {}).get("simulated", False)
    latencies = [f"{'simulated' if simulated else 'predicted'}, {unit.name}", f"spread, {unit.name}"]
    print_table("", ["arch", *latencies, *bounded, "probability", label, "Pareto"], rows)
