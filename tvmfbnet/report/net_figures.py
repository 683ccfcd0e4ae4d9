"""Figures of the found net: drawn to scale, and its latency against the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from tvmfbnet.latency.cells import PREDICTED
from tvmfbnet.latency.origin import MEASURED, timed_of
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.blocks import FIXED, HATCH, block_colour, block_legend, hatch_area, predicted_patch
from tvmfbnet.report.canvas import (
    BLUE,
    INK,
    MIDDLE,
    RED,
    SMALL,
    WIDE,
    Canvas,
    legend_below,
    legend_height,
    letters_in,
    tidy,
)
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import BLOCK, NetPart, Space

Record = Mapping[str, Any]

_OVERHEAD = "#4a5568"


# --- the found net ---


def arch_drawing(
    arch: Arch, space: Space, table: LatencyTable | None, target_ms: float | None = None, canvas: Canvas = WIDE
) -> Figure:
    """The found net: stem, stages and head as rows with their totals, then the whole net in one bar against the target.

    The width of a box is its latency. Without a table (or if it lacks parts of the net) all boxes are equally wide and
    there are no totals.
    """
    rows: list[tuple[str, list[NetPart]]] = [("stem", [space.stem])]
    rows += [(f"stage {stage}", []) for stage in range(len(space.stage_sizes))]
    for layer, part in space.cells_of(arch):
        rows[1 + layer.stage][1].append(part)
    rows.append(("head", list(space.head)))
    parts = [part for _, row in rows for part in row]
    complete_table = None
    if table is not None and not table.missing(parts) and table.arch_ms(arch, space) > table.overhead_ms:
        complete_table = table
    return _Drawing(rows, complete_table, target_ms, canvas).draw()


class _Drawing:
    """The found net on one canvas. Heights are in inches, so that text and boxes never overlap."""

    _BOX, _LINE, _GAP = 0.24, 0.145, 0.11

    def __init__(
        self,
        rows: Sequence[tuple[str, list[NetPart]]],
        table: LatencyTable | None,
        target_ms: float | None,
        canvas: Canvas,
    ) -> None:
        self.rows, self.table, self.target_ms, self.canvas = rows, table, target_ms, canvas
        self.parts = [part for _, row in rows for part in row]
        shown = [] if table is None else [table.lookup(part).latency_ms for part in self.parts]
        self.unit = unit_for([latency for latency in shown if latency > 0])
        self.letters = letters_in(canvas.width - 0.95, SMALL)

    def width(self, part: NetPart) -> float:
        """The width of a part's box, in the figure's unit."""
        return 1.0 if self.table is None else self.unit.per_ms * self.table.lookup(part).latency_ms

    def names(self, row: Sequence[NetPart]) -> list[str]:
        """The parts of a row with their latencies, wrapped between names."""
        lines: list[str] = []
        for part in row:
            cost = "" if self.table is None else f" {self.unit.number(self.table.lookup(part).latency_ms, 3)}"
            word = part.block + cost
            if lines and len(lines[-1]) + len(word) + 3 <= self.letters:
                lines[-1] += f" · {word}"
            else:
                lines.append(word)
        return lines

    def draw(self) -> Figure:
        """The whole figure."""
        texts = [self.names(row) for _, row in self.rows]
        heights = [self._BOX + self._LINE * len(lines) + self._GAP for lines in texts]
        legend = self._legend()
        total_height = 0.0 if self.table is None else 0.95
        height = sum(heights) + total_height + legend_height(len(legend), self.canvas.columns) + 0.75
        figure = self.canvas.figure(height)
        if self.table is None:
            axes = figure.add_subplot()
        else:
            axes, total = figure.subplots(2, 1, height_ratios=(sum(heights) + 0.1, total_height - 0.45))
            self._whole_net(total)
        longest = max(sum(map(self.width, row)) for _, row in self.rows)
        top, centres = 0.0, []
        for (_, row), lines, high in zip(self.rows, texts, heights, strict=True):
            self._boxes(axes, row, 0.0, top, self._BOX)
            below = top + self._BOX + 0.03
            axes.text(0, below, "\n".join(lines), va="top", fontsize=SMALL, color="#2d3748", linespacing=1.2)
            centres.append(top + self._BOX / 2)
            top += high
        axes.set(xlim=(0, longest * 1.01), ylim=(top, -0.05))
        axes.set_yticks(centres, [self._label(name, row) for name, row in self.rows], fontsize=8)
        scale = "boxes not to scale (no latencies)" if self.table is None else "boxes as wide as their latency"
        tidy(axes, f"The found net, {scale}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        if self.table is None:
            axes.set_xticks([])
        else:
            axes.set_xlabel(f"{self._what()} by the table, {self.unit.name}", fontsize=MIDDLE)
        legend_below(figure, legend, self.canvas.columns)
        return figure

    def _label(self, name: str, row: Sequence[NetPart]) -> str:
        """A row's name with its total."""
        return name if self.table is None else f"{name}\n{self._text(sum(map(self.width, row)))}"

    def _text(self, value: float) -> str:
        return self.unit.text(value / self.unit.per_ms, 3)

    def _boxes(self, axes: Axes, row: Sequence[NetPart], left: float, top: float, height: float) -> float:
        """Draws boxes from left to right; returns where they end."""
        for part in row:
            width = self.width(part)
            colour = block_colour(part.block) if part.part == BLOCK else FIXED
            axes.add_patch(Rectangle((left, top), width, height, facecolor=colour, edgecolor="white", linewidth=0.8))
            if self._predicted(part):
                hatch_area(axes, (left, top), width, height, "#4a5568")
            left += width
        return left

    def _what(self) -> str:
        """What the table has: latencies that were measured or predicted from such, or simulated ones."""
        return "simulated latency" if self.table is not None and self.table.is_simulated else "latency"

    def _predicted(self, part: NetPart) -> bool:
        return self.table is not None and self.table.lookup(part).source == PREDICTED

    def _whole_net(self, axes: Axes) -> None:
        """All boxes in one bar with its own scale, from the runtime's overhead to the head, and the target."""
        if self.table is None:
            return
        overhead = max(self.unit.per_ms * self.table.overhead_ms, 0.0)
        axes.add_patch(Rectangle((0, 0), overhead, 1, facecolor=_OVERHEAD, linewidth=0))
        end = self._boxes(axes, self.parts, overhead, 0.0, 1.0)
        farthest = end
        if self.target_ms is not None:
            target = self.unit.per_ms * self.target_ms
            axes.axvline(target, color=RED, linestyle="--", linewidth=1.4)
            farthest = max(end, target)
        total = sum(map(self.width, self.parts)) + self.unit.per_ms * self.table.overhead_ms
        simulated = " (simulated)" if self.table.is_simulated else ""
        tidy(axes, f"Whole net: {self.unit.text(total / self.unit.per_ms)} by the table{simulated}")
        axes.set(xlim=(0, farthest * 1.03), ylim=(-0.15, 1.15), yticks=[])
        axes.spines["left"].set_visible(False)

    def _legend(self) -> list[Any]:
        """An entry for every visible mark; a skip that costs nothing is invisible."""
        marks: list[Any] = block_legend(p.block for p in self.parts if p.part == BLOCK and self.width(p) > 0)
        marks.append(Patch(facecolor=FIXED, linewidth=0, label="stem and head"))
        if self.table is not None and self.table.overhead_ms > 0:
            marks.append(Patch(facecolor=_OVERHEAD, linewidth=0, label="calling the runtime"))
        if any(map(self._predicted, self.parts)):
            marks.append(predicted_patch())
        if self.table is not None and self.target_ms is not None:
            marks.append(_target_line(self.target_ms, self.unit))
        return marks


def _target_line(target_ms: float, unit: Unit) -> Line2D:
    label = f"latency target {unit.text(target_ms)}"
    return Line2D([], [], color=RED, linestyle="--", linewidth=1.4, label=label)


# --- its latency ---


def latency_bars(result: Record, target_ms: float | None, canvas: Canvas = WIDE) -> Figure:
    """Predicted and timed latency of the found net, and ONNX Runtime's on the same device, as far as known."""
    source, timed_ms = timed_of(result)
    bars: list[tuple[str, Any, str]] = [
        ("predicted\n(table)", result.get("predicted_ms"), "#90cdf4"),
        (f"{source}\n(TVM)", timed_ms, BLUE),
        ("ONNX\nRuntime", result.get("onnxruntime_ms"), "#a0aec0"),
    ]
    shown = [bar for bar in bars if bar[1] is not None]
    if not shown:
        raise ValueError("no latency at all")
    unit = unit_for([*(value for _, value, _ in shown), target_ms])
    bounds = result.get("interval") if source == MEASURED else None
    high = bounds["high_ms"] if bounds and timed_ms is not None else 0.0
    most = unit.per_ms * max(*(value for _, value, _ in shown), high, target_ms or 0.0)
    marks = _bar_marks([name for name, *_ in shown], bounds, target_ms, unit)
    figure = canvas.figure(0.65 + 0.5 * len(shown) + legend_height(len(marks), 1 if canvas.narrow else 3))
    axes = figure.add_subplot()
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # keeps the target's line out of the numbers
    for row, (name, value, colour) in enumerate(shown):
        length = end = unit.per_ms * value
        options: dict[str, Any] = {}
        if name.startswith("predicted"):
            options = {"hatch": HATCH, "edgecolor": "#4a5568", "linewidth": 0}
        elif name.startswith("measured") and bounds:
            low, end = unit.per_ms * bounds["low_ms"], unit.per_ms * bounds["high_ms"]
            options = {"xerr": [[max(length - low, 0.0)], [max(end - length, 0.0)]], "ecolor": INK, "capsize": 4}
        axes.barh(row, length, 0.62, color=colour, **options)
        axes.text(end + 0.015 * most, row, unit.text(value), va="center", fontsize=MIDDLE, bbox=plain)
    tidy(axes, f"Latency of the found net, {unit.name}")
    axes.set_yticks(range(len(shown)), [name for name, *_ in shown], fontsize=8)
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, (1.4 if canvas.narrow else 1.25) * most))
    if target_ms is not None:
        axes.axvline(unit.per_ms * target_ms, color=RED, linestyle="--", linewidth=1.4)
    legend_below(figure, marks, 1 if canvas.narrow else 3)
    return figure


def _bar_marks(names: Sequence[str], bounds: Record | None, target_ms: float | None, unit: Unit) -> list[Any]:
    marks: list[Any] = [predicted_patch("#90cdf4")] if any(name.startswith("predicted") for name in names) else []
    if bounds and any(name.startswith("measured") for name in names):
        label = f"{bounds['confidence']:.0%} interval as measured"
        marks.append(Line2D([], [], color=INK, marker="|", markersize=8, label=label))
    if target_ms is not None:
        marks.append(_target_line(target_ms, unit))
    return marks
