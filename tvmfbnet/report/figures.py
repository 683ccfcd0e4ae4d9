"""The figures of a run's report, each a function from plain results to a matplotlib figure.

Only matplotlib's object interface is used (no pyplot), so nothing global is touched and no display is needed. A block
looks the same in every figure: hue is the kernel size, darkness the expansion, hatched means grouped convs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from tvmfbnet.latency.additivity import Study
from tvmfbnet.latency.table import PREDICTED, LatencyTable
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.blocks import parse_block
from tvmfbnet.space.space import NetPart, Space

Record = Mapping[str, Any]

_WIDTH = 6.6  # inches: narrow, so that labels stay readable on a phone
_SMALL = 7.5
_BLUE, _ORANGE, _GREY, _RED = "#2b6cb0", "#c05621", "#718096", "#c53030"
_FREE = "#edf2f7"
_HUES = {3: "Blues", 5: "Oranges", 7: "Greens"}
_MANY_EPOCHS = 40


@dataclass(frozen=True)
class _Style:
    """How a block is drawn."""

    colour: str | tuple[float, float, float, float]
    hatch: str | None = None


def _style_of(block: str) -> _Style:
    spec = parse_block(block)
    if spec is None:
        return _Style("#cbd5e0")
    hue = matplotlib.colormaps[_HUES.get(spec.kernel, "Purples")]
    red, green, blue, alpha = hue(min(0.25 + 0.1 * spec.expansion, 0.9))
    return _Style((float(red), float(green), float(blue), float(alpha)), "////" if spec.groups > 1 else None)


def _candidates(space: Space) -> list[str]:
    """Every block that is a candidate somewhere, by first appearance."""
    return list(dict.fromkeys(block for layer in space.layers for block in layer.blocks))


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _tidy(axes: Axes, title: str, label: str = "") -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


# --- latency of blocks ---


def latency_map(table: LatencyTable, space: Space) -> Figure:
    """Heat map of the table, layers by candidate blocks, in milliseconds; tells predicted, free and missing apart."""
    blocks = _candidates(space)
    figure = _figure(1.6 + 0.31 * len(space.layers))
    axes = figure.add_subplot()
    known = [
        table.cells[layer.cell(block)].latency_ms
        for layer in space.layers
        for block in layer.blocks
        if layer.cell(block) in table.cells
    ]
    top = max(known, default=0.0) or 1.0
    for row, layer in enumerate(space.layers):
        for column, block in enumerate(blocks):
            part = layer.cell(block) if block in layer.blocks else None
            _map_cell(axes, row, column, table, part, top)
    axes.set(xlim=(-0.5, len(blocks) - 0.5), ylim=(len(space.layers) - 0.5, -0.5))
    axes.set_xticks(range(len(blocks)), blocks, rotation=35, ha="right", fontsize=8)
    shapes = [f"{x.index}  {x.cin}→{x.cout}, {x.height}x{x.width}, s{x.stride}" for x in space.layers]
    axes.set_yticks(range(len(shapes)), shapes, fontsize=_SMALL)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Latency of each block in each layer, ms ({table.name})", fontsize=10, loc="left")
    marks = [
        Patch(facecolor="#9ecae1", label="measured"),
        Patch(facecolor="#9ecae1", edgecolor="#4a5568", hatch="////", linewidth=0, label="predicted"),
        Patch(facecolor=_FREE, edgecolor="#a0aec0", linestyle=":", label="free: nothing is computed"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _map_cell(axes: Axes, row: int, column: int, table: LatencyTable, part: NetPart | None, top: float) -> None:
    """One box of the heat map; ``part`` is None where the block is no candidate of the layer."""
    if part is None:
        return
    place = (column - 0.48, row - 0.46)
    cell = table.cells.get(part)
    if cell is None:
        axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=_FREE, edgecolor="#a0aec0", linestyle=":"))
        text = "free" if part.is_identity else "?"
        axes.text(column, row, text, ha="center", va="center", fontsize=_SMALL, color=_GREY)
        return
    share = cell.latency_ms / top
    colour = matplotlib.colormaps["Blues"](0.08 + 0.8 * share)
    dark = share > 0.6
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=colour, linewidth=0))
    background: dict[str, Any] = {}
    if cell.source == PREDICTED:
        edge = "#ffffff" if dark else "#8a97a8"
        axes.add_patch(Rectangle(place, 0.96, 0.92, fill=False, edgecolor=edge, hatch="////", linewidth=0))
        # The figure stands on a plain patch, else the hatching runs through its digits.
        background = {"bbox": {"facecolor": colour, "edgecolor": "none", "pad": 0.8}}
    ink = "white" if dark else "#1a202c"
    axes.text(column, row, f"{cell.latency_ms:.3g}", ha="center", va="center", fontsize=_SMALL, color=ink, **background)


# --- the search and the training over epochs ---


def theta_over_epochs(history: Sequence[Record], space: Space) -> Figure:
    """One small panel a layer: the candidates' probabilities, stacked, over the epochs of the search."""
    columns = min(4, len(space.layers))
    rows = -(-len(space.layers) // columns)
    figure = _figure(1.1 + 1.15 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    warmup = sum(record["phase"] == "warm-up" for record in history)
    edges = np.array([x for epoch in range(len(history)) for x in (epoch + 0.5, epoch + 1.5)])
    for axes, layer in zip_longest(panels, space.layers):
        if layer is None:
            axes.set_visible(False)
            continue
        theta = np.array([record["theta"][layer.index] for record in history], dtype=np.float64)
        if theta.shape[1:] != (len(layer.blocks),):
            raise ValueError(f"theta of layer {layer.index} does not have one number a candidate")
        exponents = np.exp(theta - theta.max(axis=1, keepdims=True))
        shares = np.repeat(exponents / exponents.sum(axis=1, keepdims=True), 2, axis=0)
        for band, block in zip(axes.stackplot(edges, shares.T, linewidth=0), layer.blocks, strict=True):
            style = _style_of(block)
            band.set(facecolor=style.colour, hatch=style.hatch, edgecolor="white")
        if 0 < warmup < len(history):
            axes.axvline(warmup + 0.5, color="#1a202c", linestyle=":", linewidth=1)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=(0, 0.5, 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        lowest = layer.index + columns >= len(space.layers)
        axes.tick_params(labelsize=_SMALL, labelbottom=lowest)
        last = shares[-1]
        axes.set_title(f"{layer.index}: {layer.blocks[int(last.argmax())]} {last.max():.0%}", fontsize=8, loc="left")
    figure.suptitle("Probability of each block over the epochs, layer by layer (dotted: end of warm-up)", fontsize=10)
    figure.legend(
        handles=_block_legend(_candidates(space)), loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    return figure


def _block_legend(blocks: Sequence[str]) -> list[Patch]:
    styles = {block: _style_of(block) for block in blocks}
    return [
        Patch(facecolor=style.colour, hatch=style.hatch, edgecolor="white", linewidth=0, label=block)
        for block, style in styles.items()
    ]


def search_curves(history: Sequence[Record], target_ms: float | None) -> Figure:
    """Losses, accuracy, expected latency against the target, temperature and entropy over the epochs of a search."""
    figure = _figure(4.9)
    (losses, right), (latency, heat) = figure.subplots(2, 2, sharex=True)
    _curve(losses, history, "weight_loss", "weights w", _BLUE)
    _curve(losses, history, "theta_loss", "theta (with latency)", _ORANGE)
    _tidy(losses, "Loss")
    _curve(right, history, "weight_accuracy", "weights w", _BLUE, 100)
    _curve(right, history, "theta_accuracy", "theta", _ORANGE, 100)
    _tidy(right, "Accuracy of the supernet, %")
    _curve(latency, history, "expected_ms", "expected", _BLUE)
    if target_ms is not None:
        latency.axhline(target_ms, color=_RED, linestyle="--", linewidth=1.2, label=f"target {target_ms:g} ms")
    _tidy(latency, "Expected latency, ms")
    _curve(heat, history, "temperature", "temperature", _BLUE)
    _curve(heat, history, "entropy", "entropy of theta, nats", _ORANGE)
    _tidy(heat, "Temperature and entropy")
    _finish_curves((losses, right, latency, heat), (latency, heat))
    return figure


def training_curves(history: Sequence[Record]) -> Figure:
    """Loss and accuracy of the found net over the epochs of its training."""
    figure = _figure(2.7)
    losses, right = figure.subplots(1, 2)
    _curve(losses, history, "train_loss", "train", _BLUE)
    _tidy(losses, "Training loss")
    _curve(right, history, "train_accuracy", "train", _BLUE, 100)
    _curve(right, history, "test_accuracy", "test", _ORANGE, 100)
    _tidy(right, "Accuracy of the net, %")
    _finish_curves((losses, right), (losses, right))
    return figure


def _curve(axes: Axes, history: Sequence[Record], key: str, label: str, colour: str, scale: float = 1.0) -> None:
    """Draws one column of a history; epochs without a value (null) are left out."""
    points = [(record["epoch"], scale * record[key]) for record in history if record.get(key) is not None]
    if points:
        marker = "o" if len(points) <= _MANY_EPOCHS else ""
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3, linewidth=1.6)


def _finish_curves(panels: Sequence[Axes], lowest: Sequence[Axes]) -> None:
    for axes in panels:
        axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=_SMALL, framealpha=0.8, edgecolor="none")
    for axes in lowest:
        axes.set_xlabel("epoch", fontsize=9)


# --- the result ---


def latency_bars(result: Record, target_ms: float | None) -> Figure:
    """Predicted and measured latency of the found net, and ONNX Runtime's on the same device; absent ones left out."""
    bars: list[tuple[str, Any, Any, str]] = [
        ("predicted\n(table)", result.get("predicted_ms"), None, "#90cdf4"),
        ("measured\n(TVM)", result.get("measured_ms"), result.get("measured_spread_ms"), _BLUE),
        ("ONNX\nRuntime", result.get("onnxruntime_ms"), None, "#a0aec0"),
    ]
    shown = [bar for bar in bars if bar[1] is not None]
    if not shown:
        raise ValueError("no latency at all")
    figure = _figure(1.2 + 0.5 * len(shown))
    axes = figure.add_subplot()
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # keeps the target's line out of the figures
    most = max(float(value) + float(spread or 0.0) for _, value, spread, _ in shown)
    for row, (_, value, spread, colour) in enumerate(shown):
        error = {"xerr": spread, "ecolor": "#1a202c", "capsize": 4} if spread is not None else {}
        axes.barh(row, value, 0.62, color=colour, **error)
        text = f"{value:.4g} ms" + (f" ± {spread:.2g}" if spread is not None else "")
        axes.text(value + (spread or 0.0) + 0.015 * most, row, text, va="center", fontsize=9, bbox=plain)
    _tidy(axes, f"Latency of the found net on {result.get('target', 'the target')}, ms")
    axes.set_yticks(range(len(shown)), [name for name, *_ in shown], fontsize=9)
    axes.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, 1.3 * max(most, target_ms or 0.0)))
    if target_ms is not None:
        axes.axvline(target_ms, color=_RED, linestyle="--", linewidth=1.2, label=f"target {target_ms:g} ms")
        figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return figure


def additivity(study: Study, target: str) -> Figure:
    """Sum of blocks against measured latency of whole nets, and the corrected predictions where there is a correction.

    Corrected points come from the cross-validation: each was predicted without the net that it stands for.
    """
    figure = _figure(5.2)
    axes = figure.add_subplot()
    measured = [record.measured_ms for record in study.records]
    sums = [record.predicted_ms for record in study.records]
    ends = [min(*measured, *sums) * 0.97, max(*measured, *sums) * 1.03]
    axes.plot(ends, ends, color=_GREY, linewidth=1, linestyle="--")
    axes.scatter(measured, sums, s=22, color=_BLUE, label=f"sum of blocks: mean error {study.agreement.mean_error:.1%}")
    if study.correction.describe():
        error = study.corrected.mean_error
        axes.scatter(
            measured, study.corrected_ms, s=22, marker="x", color=_ORANGE, label=f"corrected: mean error {error:.1%}"
        )
    _tidy(axes, f"Whole nets of {study.space} on {target}, ms")
    axes.set(xlim=ends, ylim=ends, xlabel="measured", ylabel="predicted", aspect="equal")
    axes.legend(fontsize=8, frameon=False)
    return figure


def arch_drawing(arch: Arch, space: Space, table: LatencyTable | None) -> Figure:
    """The found net: stem, stages and head as rows, blocks as boxes as wide as their latency.

    Without a table (or with one that lacks parts of the net) all boxes are equally wide.
    """
    rows: list[tuple[str, list[NetPart]]] = [("stem", [space.stem])]
    rows += [(f"stage {stage + 1}", []) for stage in range(len(space.stage_sizes))]
    for layer, part in space.cells_of(arch):
        rows[1 + layer.stage][1].append(part)
    rows.append(("head", list(space.head)))
    parts = [part for _, row in rows for part in row]
    cost: Callable[[NetPart], float] | None = None
    if table is not None and not table.missing(parts) and table.arch_ms(arch, space) > table.overhead_ms:
        cells = {part: table.lookup(part).latency_ms for part in parts}
        cost = cells.__getitem__
    figure = _figure(1.1 + 0.56 * len(rows))
    axes = figure.add_subplot()
    longest = max(sum(cost(part) if cost else 1.0 for part in row) for _, row in rows)
    for number, (_, row) in enumerate(rows):
        _arch_row(axes, number, row, cost, longest)
    axes.set(xlim=(0, longest * 1.01), ylim=(len(rows) - 0.3, -0.5))
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
    _tidy(axes, "The found net, " + ("boxes as wide as their latency" if cost else "boxes not to scale (no latencies)"))
    if cost and table is not None:
        axes.set_xlabel(f"latency, ms (calling the runtime takes {table.overhead_ms:.2g} ms more)", fontsize=9)
    else:
        axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    used = dict.fromkeys(arch.blocks)
    figure.legend(handles=_block_legend(list(used)), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _arch_row(
    axes: Axes, number: int, row: Sequence[NetPart], cost: Callable[[NetPart], float] | None, longest: float
) -> None:
    """Boxes of one row from left to right, and below them a line that names them all, however narrow they are."""
    left = 0.0
    for part in row:
        width = cost(part) if cost else 1.0
        style = _style_of(part.block) if part.part == "block" else _Style("#a0aec0")
        axes.add_patch(
            Rectangle((left, number - 0.3), width, 0.42, facecolor=style.colour, hatch=style.hatch, edgecolor="white")
        )
        left += width
    names = [part.block + (f" {cost(part):.2g}" if cost else "") for part in row]
    text = " · ".join(names) + (" ms" if cost else "")
    axes.text(0.004 * longest, number + 0.27, text, va="center", fontsize=_SMALL, color="#2d3748")
