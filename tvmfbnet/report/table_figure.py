"""The figure of the latency table: a heat map, layers by candidate blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tvmfbnet.latency.cells import PREDICTED
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.report.blocks import hatch_area, predicted_patch
from tvmfbnet.report.canvas import GREY, INK, SMALL, WIDE, Canvas, legend_below, legend_height
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.space import Layer, NetPart, Space

_FREE, _FREE_EDGE = "#edf2f7", "#a0aec0"
# Columns of a heat map side by side, on a page and on a phone.
_MAP_COLUMNS = {False: 12, True: 9}


def latency_map(table: LatencyTable, space: Space, canvas: Canvas = WIDE) -> Figure:
    """Heat map of the table, layers by candidate blocks; predicted, free and missing cells differ.

    If a space has more blocks than fit side by side, the map is wrapped: each piece has the layers with at least one of
    its blocks.
    """
    cells = {(layer.index, block): layer.cell(block) for layer in space.layers for block in layer.blocks}
    table_cells = [table.cells[part] for part in cells.values() if part in table.cells]
    unit = unit_for(cell.latency_ms for cell in table_cells)
    marks = _map_marks(table, list(cells.values()))
    # Skip last, as most layers have it.
    blocks = sorted(dict.fromkeys(block for _, block in cells), key=lambda block: parse_block(block) is None)
    most = _MAP_COLUMNS[canvas.narrow]
    pieces = [blocks[start : start + most] for start in range(0, len(blocks), most)]
    layers = [[layer for layer in space.layers if set(layer.blocks) & set(piece)] for piece in pieces]
    step, names = (0.36, 0.75) if canvas.narrow else (0.31, 0.65)
    heights = [step * len(rows) + names for rows in layers]
    figure = canvas.figure(0.35 + sum(heights) + legend_height(len(marks), canvas.columns))
    panels = figure.subplots(len(pieces), 1, height_ratios=heights, squeeze=False).flat
    top = max((cell.latency_ms for cell in table_cells), default=0.0) or 1.0
    for axes, piece, rows in zip(panels, pieces, layers, strict=True):
        shown = _Map(axes, table, unit, top, canvas)
        for row, layer in enumerate(rows):
            for column, block in enumerate(piece):
                if (layer.index, block) in cells:
                    shown.cell(row, column, cells[layer.index, block])
        shown.label(rows, piece, most if len(pieces) > 1 else len(piece))
    title = f"{'Simulated latency' if table.is_simulated else 'Latency'} of each block in each layer, {unit.name}"
    figure.suptitle(title if canvas.narrow else f"{title} ({table.name})", fontsize=9.5, x=0.01, ha="left")
    legend_below(figure, marks, canvas.columns)
    return figure


class _Map:
    """The boxes of a heat map."""

    def __init__(self, axes: Axes, table: LatencyTable, unit: Unit, top: float, canvas: Canvas) -> None:
        self.axes, self.table, self.unit, self.top, self.narrow = axes, table, unit, top, canvas.narrow
        self.colours = matplotlib.colormaps["Blues"]  # a new one at every look-up, which takes longer than a box

    def label(self, layers: Sequence[Layer], blocks: Sequence[str], columns: int) -> None:
        """Names of the rows and columns, and room for ``columns`` columns."""
        axes = self.axes
        axes.set(xlim=(-0.5, columns - 0.5), ylim=(len(layers) - 0.5, -0.5))
        turned: dict[str, Any] = {"rotation": 60 if self.narrow else 35, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(blocks)), blocks, fontsize=8, **turned)
        between = "\n" if self.narrow else ", "
        shapes = [f"{x.index}  {x.cin}→{x.cout}{between}{x.height}x{x.width}, s{x.stride}" for x in layers]
        axes.set_yticks(range(len(shapes)), shapes, fontsize=SMALL)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    def cell(self, row: int, column: int, part: NetPart) -> None:
        """One box."""
        place = (column - 0.48, row - 0.46)
        cell = self.table.cells.get(part)
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.2 if self.narrow else SMALL}
        if cell is None:
            box = Rectangle(place, 0.96, 0.92, facecolor=_FREE, edgecolor=_FREE_EDGE, linestyle=":")
            self.axes.add_artist(box)  # `label` sets the limits
            self.axes.text(column, row, "free" if part.is_identity else "?", color=GREY, **text)
            return
        share = cell.latency_ms / self.top
        colour = self.colours(0.08 + 0.8 * share)
        dark = share > 0.6
        self.axes.add_artist(Rectangle(place, 0.96, 0.92, facecolor=colour, linewidth=0))
        if cell.source == PREDICTED:
            hatch_area(self.axes, place, 0.96, 0.92, "#ffffff" if dark else "#8a97a8")
            # A plain patch keeps the hatching out of the digits.
            text["bbox"] = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        ink = "white" if dark else INK
        self.axes.text(column, row, self.unit.number(cell.latency_ms, 3), color=ink, **text)


def _map_marks(table: LatencyTable, parts: Sequence[NetPart]) -> list[Patch]:
    """A legend of the kinds of cells in the map."""
    sources = {table.cells[part].source for part in parts if part in table.cells}
    absent = [part for part in parts if part not in table.cells]
    marks = [Patch(facecolor="#9ecae1", label=table.basis)] if sources - {PREDICTED} else []
    marks += [predicted_patch("#9ecae1")] if PREDICTED in sources else []
    plain: dict[str, Any] = {"facecolor": _FREE, "edgecolor": _FREE_EDGE, "linestyle": ":"}
    if any(part.is_identity for part in absent):
        marks.append(Patch(**plain, label="free: nothing is computed"))
    if any(not part.is_identity for part in absent):
        marks.append(Patch(**plain, label="?: unknown"))
    return marks
