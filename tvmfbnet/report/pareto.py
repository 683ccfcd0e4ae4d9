"""The figure of latency against accuracy for archs of one search, with its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tvmfbnet.files import write_atomically
from tvmfbnet.search.derive import Candidate, pareto_front

_BLUE, _GREY, _RED = "#2b6cb0", "#718096", "#c53030"


def pareto_figure(candidates: Sequence[Candidate], target_ms: float | None) -> Figure:
    """Each validated arch a point with the spread of its latency, the front a line, the target a mark."""
    figure = Figure(figsize=(6.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    judged = [c for c in candidates if c.accuracy is not None]
    axes.errorbar(
        [c.predicted_ms for c in judged],
        [100 * (c.accuracy or 0.0) for c in judged],
        xerr=[c.spread_ms for c in judged],
        fmt="o",
        color=_GREY,
        markersize=4,
        linewidth=0.8,
        label="sampled archs",
    )
    front = pareto_front(judged)
    axes.step(
        [c.predicted_ms for c in front],
        [100 * (c.accuracy or 0.0) for c in front],
        where="post",
        marker="o",
        color=_BLUE,
        markersize=5,
        label="Pareto front",
    )
    if target_ms is not None:
        axes.axvline(target_ms, color=_RED, linestyle="--", linewidth=1, label="latency target")
    axes.set_xlabel("predicted latency, ms", fontsize=9)
    axes.set_ylabel("supernet accuracy, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def write_pareto_figure(candidates: Sequence[Candidate], target_ms: float | None, path: Path) -> None:
    """Writes the figure in the format that the file's name says; StorageError where that is impossible."""
    figure = pareto_figure(candidates, target_ms)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150))
