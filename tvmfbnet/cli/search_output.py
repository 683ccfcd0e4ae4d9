"""What ``tvmfbnet search`` prints: the plan of a dry run, the archs of a search, a front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmfbnet.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tvmfbnet.search.config import SearchConfig
    from tvmfbnet.search.derive import ScoredArch
    from tvmfbnet.search.dry_run import DryRun
    from tvmfbnet.search.forecast import Forecast
    from tvmfbnet.search.front.nets import FrontNet
    from tvmfbnet.search.gpu_estimate import GpuEstimate
    from tvmfbnet.search.search import SearchResult
    from tvmfbnet.space.space import Space


def print_plan(
    space: Space,
    config: SearchConfig,
    range_ms: tuple[float, float],
    expected: tuple[Forecast, DryRun | None, GpuEstimate],
    as_json: bool,
) -> None:
    """What a search has to choose among, by what, and how long that takes."""
    forecast, tried, estimate = expected
    fastest_ms, slowest_ms = range_ms
    plan = {"space": space.name, "archs": space.size, "fastest_ms": fastest_ms, "slowest_ms": slowest_ms}
    plan |= {"strategy": config.strategy, "constraints": list(config.constraints), "front": config.front}
    plan |= {"latency_target_ms": config.latency_target_ms, "epochs": config.epochs, "batch_size": config.batch_size}
    if as_json:
        measured = {} if tried is None else tried.to_dict()
        print_json({**plan, **forecast.to_dict(), **measured, "gpu": estimate.to_dict()})
        return
    from tvmfbnet.latency.units import unit_for

    target_ms = config.latency_target_ms
    unit = unit_for((fastest_ms, slowest_ms, target_ms))
    print(
        f"{space.name}: {space.size:,} archs, from {unit.text(fastest_ms)} (fastest net) to {unit.text(slowest_ms)} "
        "(slowest)"
    )
    share = "" if target_ms is None else f" ({target_ms / slowest_ms:.0%} of the slowest net)"
    print("no latency target" if target_ms is None else f"latency target {unit.text(target_ms)}{share}")
    if config.constraints:
        print(f"constraints: {', '.join(config.constraints)}")
    if config.front is not None:
        print(f"a front of {config.front} latency bounds")
    if config.strategy == "differentiable":
        print(f"{config.epochs} epochs ({config.warmup_epochs} of them warm-up), batches of {config.batch_size}")
    elif config.evaluator == "supernet":
        print(f"strategy {config.strategy}: a supernet of {forecast.plan.warmup_steps:,} steps judges all archs")
    else:
        archs = forecast.plan.finalist_steps // config.finalist_steps
        print(f"strategy {config.strategy}: up to {archs:,} archs, each trained for {config.finalist_steps} steps")
    for line in () if tried is None else tried.describe():
        print(line)
    print(forecast.describe())
    print(estimate.describe())
    if forecast.warning:
        print(forecast.warning)


def print_result(result: SearchResult, as_json: bool) -> None:
    """The archs of a search, best first, or its front."""
    if as_json:
        print_json(
            {
                "arch": result.best.arch,
                "predicted_ms": result.best.predicted_ms,
                "accuracy": result.best.accuracy,
                "constraints": [check.to_dict() for check in result.best.constraints],
                "strategy": result.strategy,
                "spent_images": result.spent_images,
                "spent_seconds": result.spent_seconds,
                "measured_share": result.measured_share,
                "latency_source": result.latency_source.to_dict(),
                "expected_ms": result.expected_ms,
                "front": [net.to_dict() for net in result.front],
                "candidates": [candidate.to_dict() for candidate in result.candidates],
                "notices": [notice.to_dict() for notice in result.notices],
                "out": str(result.out),
            }
        )
        return
    if result.front:
        _print_front(result)
        return
    from tvmfbnet.latency.units import unit_for
    from tvmfbnet.search.strategies import strategy_named

    unit = unit_for(c.predicted_ms for c in result.candidates)
    bounded, bounded_rows = constraint_columns(result.candidates)
    rows = [
        [c.arch, unit.number(c.predicted_ms), *cells, f"{c.accuracy or 0:.2%}", f"{c.probability:.3g}"]
        for c, cells in zip(result.candidates, bounded_rows, strict=True)
    ]
    label = strategy_named(result.strategy).accuracy_label
    columns = ["arch", f"{result.latency_source.word}, {unit.name}", *bounded, label, "probability"]
    print_table("archs found, best first", columns, rows)
    print(f"latencies: {result.latency_source.describe()}")
    print(f"found {result.best.arch}")


def _print_front(result: SearchResult) -> None:
    """The nets of a front, each with the standard deviations of its latency and accuracy."""
    from tvmfbnet.latency.units import unit_for

    nets = result.front
    unit = unit_for(net.bound_ms for net in nets)
    bounded, bounded_rows = constraint_columns(nets)
    rows = [
        [
            net.arch,
            unit.number(net.bound_ms),
            f"{unit.number(net.predicted_ms)} +- {unit.number(net.spread_ms)}",
            *cells,
            f"{net.accuracy:.2%} +- {net.accuracy_spread:.2%}",
        ]
        for net, cells in zip(nets, bounded_rows, strict=True)
    ]
    columns = ["arch", f"bound, {unit.name}", f"{result.latency_source.word}, {unit.name}", *bounded, "accuracy"]
    print_table(f"front of {len(nets)} nets, fastest first", columns, rows)
    print(f"latencies: {result.latency_source.describe()}")
    print(f"front {result.out / 'front.json'}")
    print(f"found {result.best.arch}")


def constraint_columns(archs: Sequence[ScoredArch | FrontNet]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of what archs have of each bounded quantity but latency, which has a column of its own."""
    from tvmfbnet.search.quantities import QUANTITIES

    names = dict.fromkeys(check.quantity for arch in archs for check in arch.constraints)
    others = [QUANTITIES[name] for name in names if name != "latency"]
    rows = []
    for arch in archs:
        checks = {check.quantity: check for check in arch.constraints}
        rows.append([quantity.text(checks[quantity.name].value) for quantity in others])
    return [quantity.name for quantity in others], rows
