"""Prunings of a run's net in its report: accuracy against what remains, for tickets and controls, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.canvas import BLUE, GREY, MIDDLE, ORANGE, WIDE, Canvas, legend_below, tidy
from tvmfbnet.report.document import table_html
from tvmfbnet.report.pruning_files import PruneRecord, PruneRoundRecord
from tvmfbnet.report.terms import with_hint
from tvmfbnet.report.verdict import arch_html

# Marks that are nearer than this factor on the axis of shares would touch.
_APART = {False: 1.25, True: 1.6}


def pruning_heading(name: str, record: PruneRecord) -> str:
    """The heading of a pruning; ``name`` is its folder's."""
    kind = "channels" if record.of_channels else "weights"
    return f"Pruning of {kind}" + ("" if name == kind else f": {name}")


def pruning_figure(record: PruneRecord, metric: str, canvas: Canvas = WIDE) -> Figure:
    """Accuracy of the nets and their controls; against the latency where channels go, else the remaining weights.

    Args:
        record: the content of ``prune.json``.
        metric: what the accuracy is called.
        canvas: the width.
    """
    figure = canvas.figure(3.6)
    axes = figure.add_subplot()
    rounds = record.rounds
    if record.of_channels:
        unit = _unit(rounds)
        places = [unit.per_ms * (each.latency_ms or 0.0) for each in rounds]
        label, title = f"latency by the table, {unit.name}", "Accuracy against latency"
    else:
        places = [100 * each.remaining for each in rounds]
        label, title = "weights that remain, %", "Accuracy against remaining weights"
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_spaced(places, _APART[canvas.narrow])))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.axhline(100 * rounds[0].test_accuracy, color=GREY, linestyle=":", linewidth=1)
    axes.plot(places, [100 * each.test_accuracy for each in rounds], "-o", color=BLUE, markersize=4.5, linewidth=1.2)
    controls = [
        (place, 100 * each.control_accuracy)
        for place, each in zip(places, rounds, strict=True)
        if each.control_accuracy is not None
    ]
    marks = [
        Line2D([], [], color=GREY, linestyle=":", label="dense net"),
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, label=_net_name(record)),
    ]
    if controls:
        axes.plot(*zip(*controls, strict=True), "--s", color=ORANGE, markersize=4, linewidth=1.2)
        marks.append(Line2D([], [], color=ORANGE, marker="s", markersize=4, linestyle="--", label="control"))
    tidy(axes, title, f"{metric}, test images, %")
    axes.set_xlabel(label, fontsize=MIDDLE)
    legend_below(figure, marks, 2 if canvas.narrow else 3)
    return figure


def pruning_html(record: PruneRecord, metric: str) -> str:
    """What was done, in a sentence or two, and the rounds as a table.

    Args:
        record: the content of ``prune.json``.
        metric: what the accuracy is called.
    """
    rounds, unit = record.rounds, _unit(record.rounds)
    controlled = any(each.control_accuracy is not None for each in rounds)
    heads = ["round", "weights", "remaining"]
    heads += [f"latency, {unit.name}"] if record.of_channels else []
    heads += [with_hint(metric)] + ([with_hint("control")] if controlled else [])
    heads += ["arch"] if record.of_channels else []
    rows = []
    for each in rounds:
        cells = [str(each.round), f"{each.weights:,}", f"{each.remaining:.1%}"]
        cells += [escape(unit.number(each.latency_ms or 0.0))] if record.of_channels else []
        cells += [f"{each.test_accuracy:.2%}"]
        if controlled:
            cells.append("" if each.control_accuracy is None else f"{each.control_accuracy:.2%}")
        rows.append([*cells, arch_html(each.arch)] if record.of_channels else cells)
    return f"<p>{escape(_told(record, controlled))}</p>\n" + table_html(heads, rows, "nets")


def _told(record: PruneRecord, controlled: bool) -> str:
    epochs = record.rewind_epochs
    early = f"those after epoch {epochs}" if epochs else "the initial ones"
    if record.of_channels:
        told = f"Each round removes channels inside blocks, rewinds the other weights to {early}, and trains again. "
        told += "Latencies are predicted by the latency table that the channels were removed by."
    else:
        told = f"Each round removes the smallest weights, rewinds the others to {early}, and trains again: a lottery "
        told += "ticket. It is no faster than the dense net, as kernels multiply zeros, too."
    if not controlled:
        return told
    pairs = [(each.test_accuracy, each.control_accuracy) for each in record.rounds if each.control_accuracy is not None]
    beaten = sum(accuracy > control for accuracy, control in pairs)
    return f"{told} {beaten} of {len(pairs)} beat the control, in one training of each."


def _net_name(record: PruneRecord) -> str:
    return "fewer channels" if record.of_channels else "lottery ticket"


def _unit(rounds: Sequence[PruneRoundRecord]) -> Unit:
    return unit_for(each.latency_ms for each in rounds)


def _spaced(places: Sequence[float], factor: float) -> list[float]:
    """Of falling values the first, the last, and those between that lie apart by a factor."""
    kept = [places[0]]
    for place in places[1:-1]:
        if kept[-1] / place >= factor and place / places[-1] >= factor:
            kept.append(place)
    return [*kept, places[-1]] if len(places) > 1 else kept
