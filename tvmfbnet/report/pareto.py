"""The figure of latency against top-1 accuracy for the archs of one search, with their Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.canvas import BLUE, GREY, MIDDLE, RED, WIDE, legend_below, save, tidy
from tvmfbnet.search.derive import ScoredArch, pareto_front


def pareto_figure(candidates: Sequence[ScoredArch], target_ms: float | None) -> Figure:
    """A point with its latency spread for each validated arch, a line for the front, and the target."""
    figure = WIDE.figure(4.2)
    axes = figure.add_subplot()
    validated = [c for c in candidates if c.accuracy is not None]
    unit = unit_for([*(c.predicted_ms for c in validated), target_ms])
    front = pareto_front(validated)
    front_archs = {c.arch for c in front}
    others = [c for c in validated if c.arch not in front_archs]
    marks: list[Line2D] = []
    if front:
        _points(axes, front, unit, BLUE)
        marks.append(Line2D([], [], color=BLUE, marker="o", markersize=4.5, label="Pareto front"))
    if others:
        _points(axes, others, unit, GREY)
        options: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4.5}
        marks.append(Line2D([], [], color=GREY, label="other sampled archs", **options))
    axes.step(*_place(front, unit), where="post", color=BLUE, linewidth=1.4)
    if any(c.spread_ms for c in validated):
        label = "spread of the predicted latency"
        marks.append(Line2D([], [], color=GREY, linewidth=0.9, marker="|", markersize=5, label=label))
    if target_ms is not None:
        label = f"latency target {unit.text(target_ms)}"
        marks.append(axes.axvline(unit.per_ms * target_ms, color=RED, linestyle="--", linewidth=1.2, label=label))
    tidy(axes, "Sampled archs", "top-1 accuracy with the supernet's weights, %")
    axes.set_xlabel(f"predicted latency, {unit.name}", fontsize=MIDDLE)
    legend_below(figure, marks, 2)
    return figure


def _points(axes: Axes, archs: Sequence[ScoredArch], unit: Unit, colour: str) -> None:
    """Points with error bars for the spread of their latencies, where known."""
    bars = [unit.per_ms * c.spread_ms for c in archs]
    options: dict[str, Any] = {"xerr": bars, "capsize": 2, "elinewidth": 0.9} if any(bars) else {}
    axes.errorbar(*_place(archs, unit), fmt="o", color=colour, markersize=4.5, **options)


def _place(archs: Sequence[ScoredArch], unit: Unit) -> tuple[list[float], list[float]]:
    return [unit.per_ms * c.predicted_ms for c in archs], [100 * (c.accuracy or 0.0) for c in archs]


def write_pareto_figure(candidates: Sequence[ScoredArch], target_ms: float | None, path: Path) -> None:
    """Writes the figure in the format of the file's suffix; StorageError if that is impossible."""
    save(pareto_figure(candidates, target_ms), path)
