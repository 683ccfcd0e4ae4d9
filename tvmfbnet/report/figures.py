"""Figures over epochs and of whole nets; each function turns plain results into a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tvmfbnet.latency.additivity import Study
from tvmfbnet.latency.units import unit_for
from tvmfbnet.report.blocks import block_colour, block_legend
from tvmfbnet.report.canvas import (
    BLUE,
    GREY,
    INK,
    MIDDLE,
    ORANGE,
    RED,
    SMALL,
    WIDE,
    Canvas,
    legend_below,
    legend_height,
    tidy,
)
from tvmfbnet.space.space import Space

Record = Mapping[str, Any]

_MANY_EPOCHS = 40


def theta_over_epochs(history: Sequence[Record], space: Space, canvas: Canvas = WIDE) -> Figure:
    """One small panel per layer: the stacked probabilities of its candidates over the epochs of the search."""
    columns = min(canvas.columns, len(space.layers))
    rows = -(-len(space.layers) // columns)
    blocks = list(dict.fromkeys(block for layer in space.layers for block in layer.blocks))
    height = 0.5 + 1.15 * rows + legend_height(len(blocks), canvas.columns)
    figure = canvas.figure(height)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    warmup = sum(record["phase"] == "warm-up" for record in history)
    marked = 0 < warmup < len(history)
    for axes, layer in zip_longest(panels, space.layers):
        if layer is None:
            axes.set_visible(False)
            continue
        last = _bands(axes, history, layer.index, layer.blocks)
        if marked:
            axes.axvline(warmup + 0.5, color=INK, linestyle=":", linewidth=1)
        axes.tick_params(labelsize=SMALL, labelbottom=layer.index + columns >= len(space.layers))
        axes.set_title(f"{layer.index}: {layer.blocks[int(last.argmax())]} {last.max():.0%}", fontsize=8, loc="left")
    between = "\n" if canvas.narrow else " "
    title = f"Probability of each block over the epochs,{between}layer by layer"
    figure.suptitle(title + (" (dotted: end of warm-up)" if marked else ""), fontsize=9.5)
    legend_below(figure, block_legend(blocks), canvas.columns)
    return figure


def _bands(axes: Axes, history: Sequence[Record], layer: int, blocks: Sequence[str]) -> np.ndarray[Any, Any]:
    """Draws one layer's panel; returns the probabilities after the last epoch."""
    theta = np.array([record["theta"][layer] for record in history], dtype=np.float64)
    if theta.shape[1:] != (len(blocks),):
        raise ValueError(f"theta of layer {layer} does not have one number per candidate")
    exponents = np.exp(theta - theta.max(axis=1, keepdims=True))
    shares = exponents / exponents.sum(axis=1, keepdims=True)
    edges = np.arange(1.0, len(history) + 1)
    if len(history) <= _MANY_EPOCHS:  # steps, while they are visible
        edges = np.array([x for epoch in range(len(history)) for x in (epoch + 0.5, epoch + 1.5)])
        shares = np.repeat(shares, 2, axis=0)
    for band, block in zip(axes.stackplot(edges, shares.T, linewidth=0.4), blocks, strict=True):
        band.set(facecolor=block_colour(block), edgecolor="white")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=(0, 0.5, 1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    last: np.ndarray[Any, Any] = shares[-1]
    return last


def search_curves(history: Sequence[Record], target_ms: float | None, canvas: Canvas = WIDE) -> Figure:
    """Losses, accuracy, expected latency against the target, temperature and entropy over the epochs of a search."""
    figure = canvas.figure(8.4 if canvas.narrow else 4.9)
    panels = list(figure.subplots(*((4, 1) if canvas.narrow else (2, 2)), sharex=True).flat)
    losses, accuracy, latency, heat = panels
    unit = unit_for([*(record["expected_ms"] for record in history), target_ms])
    _curve(losses, history, "weight_loss", "weights w", BLUE)
    _curve(losses, history, "theta_loss", "theta (with latency)", ORANGE)
    tidy(losses, "Loss")
    _curve(accuracy, history, "weight_accuracy", "weights w", BLUE, 100)
    _curve(accuracy, history, "theta_accuracy", "theta", ORANGE, 100)
    tidy(accuracy, "Accuracy of the supernet, %")
    _curve(latency, history, "expected_ms", "expected", BLUE, unit.per_ms)
    if target_ms is not None:
        label = f"target {unit.text(target_ms)}"
        latency.axhline(target_ms * unit.per_ms, color=RED, linestyle="--", linewidth=1.2, label=label)
    tidy(latency, f"Expected latency, {unit.name}")
    _curve(heat, history, "temperature", "temperature", BLUE)
    _curve(heat, history, "entropy", "entropy of theta, nats", ORANGE)
    tidy(heat, "Temperature and entropy")
    _finish_curves(panels, panels[-1:] if canvas.narrow else panels[-2:])
    return figure


def training_curves(history: Sequence[Record], canvas: Canvas = WIDE) -> Figure:
    """Loss and accuracy of the found net over the epochs of its training."""
    figure = canvas.figure(4.4 if canvas.narrow else 2.7)
    losses, accuracy = figure.subplots(*((2, 1) if canvas.narrow else (1, 2)))
    _curve(losses, history, "train_loss", "train", BLUE)
    tidy(losses, "Training loss")
    _curve(accuracy, history, "train_accuracy", "train", BLUE, 100)
    _curve(accuracy, history, "test_accuracy", "test", ORANGE, 100)
    tidy(accuracy, "Accuracy of the net, %")
    _finish_curves((losses, accuracy), (accuracy,) if canvas.narrow else (losses, accuracy))
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
            axes.legend(fontsize=SMALL, framealpha=0.8, edgecolor="none")
    for axes in lowest:
        axes.set_xlabel("epoch", fontsize=MIDDLE)


def additivity(study: Study, target: str) -> Figure:
    """Sums of blocks against measured latencies of whole nets, and the corrected predictions if there is a correction.

    Corrected points are cross-validated: the correction was fitted without the net of the point.
    """
    figure = WIDE.figure(5.2)
    axes = figure.add_subplot()
    unit = unit_for(record.measured_ms for record in study.records)
    measured = [unit.per_ms * record.measured_ms for record in study.records]
    sums = [unit.per_ms * record.predicted_ms for record in study.records]
    ends = [min(*measured, *sums) * 0.97, max(*measured, *sums) * 1.03]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle="--", label=f"predicted as {study.source}")
    axes.scatter(measured, sums, s=22, color=BLUE, label=f"sum of blocks: MAPE {study.agreement.mean_error:.1%}")
    if study.correction.describe():
        corrected = [unit.per_ms * latency for latency in study.corrected_ms]
        label = f"corrected: MAPE {study.corrected.mean_error:.1%}"
        axes.scatter(measured, corrected, s=22, marker="x", color=ORANGE, label=label)
    tidy(axes, f"Whole nets of {study.space} on {target}")
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set(xlabel=f"{study.source} latency, {unit.name}", ylabel=f"predicted latency, {unit.name}")
    axes.legend(fontsize=8, frameon=False)
    return figure
