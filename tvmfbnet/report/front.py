"""The front of a search in Pareto mode: a figure with the uncertainty of latency and accuracy, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.canvas import BLUE, GREY, MIDDLE, WIDE, Canvas, legend_below, tidy
from tvmfbnet.report.verdict import arch_html

Record = Mapping[str, Any]


def front_figure(front: Record, canvas: Canvas = WIDE) -> Figure:
    """A point for each net, with bars of one standard deviation both ways, and the latency bounds.

    Args:
        front: the content of ``front.json``.
        canvas: the width.
    """
    nets = front["nets"]
    unit = _unit(nets)
    figure = canvas.figure(4.2)
    axes = figure.add_subplot()
    bounds = sorted({net["bound_ms"] for net in nets})
    for bound_ms in bounds:
        axes.axvline(unit.per_ms * bound_ms, color=GREY, linestyle=":", linewidth=0.9)
    latencies = [unit.per_ms * net["predicted_ms"] for net in nets]
    accuracies = [100 * net["accuracy"] for net in nets]
    axes.errorbar(
        latencies,
        accuracies,
        xerr=[unit.per_ms * net["spread_ms"] for net in nets],
        yerr=[100 * net["accuracy_spread"] for net in nets],
        fmt="o",
        color=BLUE,
        markersize=4.5,
        capsize=2,
        elinewidth=0.9,
    )
    axes.step(latencies, accuracies, where="post", color=BLUE, linewidth=1.2)
    tidy(axes, "The front of the search", "expected top-1 accuracy, %")
    axes.set_xlabel(f"predicted latency, {unit.name}", fontsize=MIDDLE)
    marks = [
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, label="net; bars: one standard deviation"),
        Line2D([], [], color=GREY, linestyle=":", label="latency bound"),
    ]
    legend_below(figure, marks, 1 if canvas.narrow else 2)
    return figure


def front_html(front: Record) -> str:
    """The nets of a front as a table.

    Args:
        front: the content of ``front.json``.
    """
    unit = _unit(front["nets"])
    titles = ("Bound", "Predicted latency", "Expected accuracy", "Arch")
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = []
    for net in front["nets"]:
        cells = [
            escape(unit.text(net["bound_ms"])),
            f"{escape(unit.text(net['predicted_ms']))} &plusmn; {escape(unit.text(net['spread_ms']))}",
            f"{net['accuracy']:.2%} &plusmn; {net['accuracy_spread']:.2%}",
            arch_html(net["arch"]),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n")
    evaluated = f"{front['evaluations']:,} archs evaluated by the strategy {escape(str(front['strategy']))}"
    note = f"<p>{evaluated}; &plusmn; is one standard deviation.</p>\n"
    return f'{note}<table class="front">\n<tr>{head}</tr>\n{"".join(rows)}</table>\n'


def _unit(nets: Any) -> Unit:
    return unit_for([net["bound_ms"] for net in nets])
