"""The figure of operators: what the same blocks take on several devices, as grouped bars, one panel per layer.

Latencies are drawn relative to each device's mean, so that devices of different speed show which blocks are cheap
where; or as they are. Paler bars with an outline are simulated, hatched ones predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tvmfbnet.errors import UserError
from tvmfbnet.latency.cells import PREDICTED
from tvmfbnet.latency.side_by_side import SharedPart, SideBySide
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.blocks import HATCH, predicted_patch
from tvmfbnet.report.canvas import (
    BLUE,
    INK,
    MIDDLE,
    ORANGE,
    SMALL,
    WIDE,
    Canvas,
    legend_below,
    legend_height,
    letters_in,
    tidy,
)
from tvmfbnet.space.space import BLOCK, NetPart

# One colour per device.
DEVICE_COLOURS = (BLUE, ORANGE, "#2f855a", "#805ad5", "#b7791f", "#319795", "#97266d", "#4a5568")
_PANELS = 4
_GROUP = 0.8  # of the room of a group, which its bars fill
_LEFT = 0.75  # inches beside a panel
_FEW = 3  # blocks per layer, below which a layer is not worth a panel of its own


def default_operators(compared: SideBySide) -> list[SharedPart]:
    """The blocks of four layers, spread evenly over the net: of all layers where there are no more."""
    shapes = list(dict.fromkeys(_shape(row.part) for row in compared.parts if row.part.part == BLOCK))
    if not shapes:
        return list(compared.parts)
    steps = range(min(_PANELS, len(shapes)))
    chosen = {shapes[round(step * (len(shapes) - 1) / max(len(steps) - 1, 1))] for step in steps}
    return [row for row in compared.parts if _shape(row.part) in chosen and row.part.part == BLOCK]


def operator_bars(
    compared: SideBySide, rows: Sequence[SharedPart], absolute: bool = False, canvas: Canvas = WIDE
) -> Figure:
    """Grouped bars: for each block one bar per device, with its spread where that was measured.

    Args:
        compared: the devices' tables.
        rows: what to draw, of its parts.
        absolute: latencies as they are, not relative to each device's mean over all shared parts.
        canvas: the width.

    Raises:
        UserError: there are more devices than colours.
    """
    if len(compared.names) > len(DEVICE_COLOURS):
        raise UserError(f"a figure shows up to {len(DEVICE_COLOURS)} tables, not {len(compared.names)}")
    panels = _panels(rows, canvas)
    unit = unit_for(cell.latency_ms for row in rows for cell in row.cells) if absolute else None
    bars = _Bars(compared, unit, canvas)
    legend = bars.legend(rows)
    columns = 1 if canvas.narrow else 2
    heights = [1.3 + panel.label_height for panel in panels]
    figure = canvas.figure(0.45 + sum(heights) + legend_height(len(legend), columns))
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False).flat, panels, strict=True):
        bars.draw(axes, panel)
    figure.align_ylabels()
    figure.suptitle(bars.title(), fontsize=9.5, x=0.01, ha="left")
    legend_below(figure, legend, columns)
    return figure


@dataclass(frozen=True)
class _Panel:
    """Groups of bars beside each other."""

    title: str
    rows: Sequence[SharedPart]
    names: Sequence[str]
    places: int
    turned: bool

    @property
    def label_height(self) -> float:
        """Inches that the names below need."""
        lines = max(name.count("\n") for name in self.names)
        return 0.45 if self.turned else 0.14 * lines


def _shape(part: NetPart) -> tuple[object, ...]:
    """What the candidates of one layer share."""
    return part.part, part.cin, part.cout, part.height, part.width, part.stride


def _shape_text(part: NetPart) -> str:
    of_what = "" if part.part == BLOCK else f"{part.part}, "
    return f"{of_what}{part.cin}→{part.cout} channels, {part.height}x{part.width}, stride {part.stride}"


def _panels(rows: Sequence[SharedPart], canvas: Canvas) -> list[_Panel]:
    """One panel per layer; where layers have few blocks each, all in as few rows as fit."""
    layers: dict[tuple[object, ...], list[SharedPart]] = {}
    for row in rows:
        layers.setdefault(_shape(row.part), []).append(row)
    if len(layers) > 1 and len(rows) < _FEW * len(layers):
        most = 3 if canvas.narrow else 6
        lines = [rows[start : start + most] for start in range(0, len(rows), most)]
        return [
            _Panel("", line, [_two_lines(row.part) for row in line], min(most, len(rows)), turned=False)
            for line in lines
        ]
    places = max(map(len, layers.values()))
    longest = max(len(row.part.block) for row in rows)
    turned = places * (longest + 1) > letters_in(canvas.width - _LEFT, SMALL)
    return [
        _Panel(_shape_text(group[0].part), group, [row.part.block for row in group], places, turned)
        for group in layers.values()
    ]


def _two_lines(part: NetPart) -> str:
    return f"{part.block}\n{part.cin}→{part.cout}\n{part.height}x{part.width}, s{part.stride}"


@dataclass(frozen=True)
class _Bars:
    """How latencies become bars: in a unit, or relative to each device's mean (``unit`` is None)."""

    compared: SideBySide
    unit: Unit | None
    canvas: Canvas

    def title(self) -> str:
        """Of the figure."""
        if self.unit is not None:
            return "Latency of the same blocks on each device"
        between = "\n" if self.canvas.narrow else " "
        count = len(self.compared.parts)
        return f"Latency of the same blocks, relative to{between}the mean of {count} parts on each device"

    def draw(self, axes: Axes, panel: _Panel) -> None:
        """One panel."""
        count = len(self.compared.names)
        width = _GROUP / count
        scales = [self.unit.per_ms if self.unit is not None else 1 / mean_ms for mean_ms in self.compared.means_ms]
        for column, scale in enumerate(scales):
            for place, row in enumerate(panel.rows):
                cell = row.cells[column]
                left = place + (column - (count - 1) / 2) * width
                axes.bar(left, cell.latency_ms * scale, width * 0.94, **self._look(column, cell.source == PREDICTED))
                if cell.spread_ms > 0:
                    high = cell.latency_ms * scale
                    spread = [[min(cell.spread_ms * scale, high)], [cell.spread_ms * scale]]
                    axes.errorbar(left, high, yerr=spread, ecolor=INK, elinewidth=0.7, capsize=1.2, fmt="none")
        tidy(axes, panel.title, "relative to mean" if self.unit is None else f"latency, {self.unit.name}")
        axes.title.set_fontsize(MIDDLE)
        turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if panel.turned else {}
        axes.set_xticks(range(len(panel.names)), list(panel.names), fontsize=SMALL, **turned)
        axes.set_xlim(-0.55, panel.places - 0.45)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        axes.set_axisbelow(True)

    def _look(self, column: int, predicted: bool) -> dict[str, Any]:
        colour = DEVICE_COLOURS[column]
        simulated = self.compared.tables[column].is_simulated
        look: dict[str, Any] = {"facecolor": f"{colour}59" if simulated else colour, "linewidth": 0.0}
        if simulated:
            look |= {"edgecolor": colour, "linewidth": 1.0}
        if predicted:
            look |= {"hatch": HATCH, "edgecolor": colour if simulated else "#e2e8f0"}
        return look

    def legend(self, rows: Sequence[SharedPart]) -> list[Any]:
        """One entry per device; relative bars say what 1 is."""
        marks: list[Any] = []
        for column, (label, mean_ms) in enumerate(zip(self.compared.labels, self.compared.means_ms, strict=True)):
            what = "" if self.unit is not None else f": mean {unit_for([mean_ms]).text(mean_ms, 3)}"
            marks.append(Patch(label=f"{label}{what}", **self._look(column, predicted=False)))
        if any(cell.source == PREDICTED for row in rows for cell in row.cells):
            marks.append(predicted_patch())
        return marks
