"""The report of a run: reads the run folder, draws what is there and writes one self-contained HTML page.

Files: ``report/index.html`` (figures embedded, no scripts, no external resources) and every figure as PNG and SVG
beside it. An unfinished run gets a partial report; the page says what is left out and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from tvmfbnet.files import make_folder, write_text
from tvmfbnet.latency.origin import timed_of
from tvmfbnet.report import figures, net_figures, table_figure
from tvmfbnet.report.document import Drawing, document
from tvmfbnet.report.front import front_figure, front_html
from tvmfbnet.report.pruning import pruning_figure, pruning_heading, pruning_html
from tvmfbnet.report.run_data import (
    FRONT,
    LOOP,
    RESULT,
    SEARCH_HISTORY,
    TABLE,
    TRAIN_HISTORY,
    RunData,
    damage,
    read_run,
)
from tvmfbnet.report.summary import Rows, made_rows, metric_name, net_rows, stage_rows, warnings_of
from tvmfbnet.report.terms import with_hint
from tvmfbnet.report.verdict import arch_html, attempts_html, verdict_html

# Sections before the attempts of the closed loop.
_BEFORE_TABLES = 2


@dataclass(frozen=True)
class _Section:
    """A figure of the page: file name, heading, alternative text; ``draw`` is None if a need is missing."""

    name: str
    heading: str
    alt: str
    needs: tuple[tuple[str, object], ...]
    draw: Callable[..., Figure] | None


def write_report(run: Path) -> Path:
    """Writes the report of a run folder, replacing an earlier one.

    Args:
        run: the folder of a run, with ``recipe.yaml``; all else may be missing.

    Returns:
        The page, ``run/report/index.html``.

    Raises:
        UserError: there is no such folder, or it is not a run folder.
        StorageError: a file of the run is damaged, or the report cannot be written.
    """
    loaded = read_run(run)
    out = make_folder(run / "report")
    parts = [_section_html(section, run, out) for section in _sections(loaded)]
    prunings = [_pruning_html(loaded, name, out) for name in loaded.prunings]
    page = out / "index.html"
    write_text(page, _page(loaded, parts, prunings))
    return page


def _sections(run: RunData) -> list[_Section]:
    """All figures, in the order of the page."""
    space, table, arch, result = run.space, run.table, run.arch, run.result
    searched, trained, (source, _) = run.search_history, run.train_history, timed_of(result or {})
    # Only the differentiable search has epochs to draw.
    has_epochs = searched is not None or (run.search or {}).get("strategy", "differentiable") == "differentiable"
    needs_space = ("search space (search/search.json, table.json or result.json)", space)
    needs_arch = ("found net (result.json or search/search.json)", arch)
    sections = [
        _Section(
            "arch",
            "The found net, drawn",
            "Rows of boxes, one row per stage, one box per block; then all in one bar against the latency target",
            (needs_arch, needs_space),
            partial(net_figures.arch_drawing, arch, space, table, run.target_ms) if arch and space else None,
        ),
        _Section(
            "latency",
            f"Predicted and {source} latency",
            f"Bars of predicted latency, {source} latency and latency with ONNX Runtime",
            ((RESULT, result),),
            partial(net_figures.latency_bars, result, run.target_ms) if result else None,
        ),
        _Section(
            "latency_map",
            "Latency table",
            "Heat map of the latency of every block in every layer",
            ((TABLE, table), needs_space),
            partial(table_figure.latency_map, table, space) if table and space else None,
        ),
        _Section(
            "search",
            "Search",
            "Loss, accuracy, expected latency and temperature over the epochs of the search",
            ((SEARCH_HISTORY, searched),),
            partial(figures.search_curves, searched, run.target_ms) if searched else None,
        ),
        _Section(
            "theta",
            "Theta over the search",
            "Probabilities of the blocks of every layer over the epochs of the search",
            ((SEARCH_HISTORY, searched), needs_space),
            partial(figures.theta_over_epochs, searched, space) if searched and space else None,
        ),
        _Section(
            "training",
            "Training of the found net",
            "Loss and accuracy over the epochs of the training",
            ((TRAIN_HISTORY, trained),),
            partial(figures.training_curves, trained) if trained else None,
        ),
    ]
    if run.front is not None:
        alt = "Points of latency and accuracy of the front's nets, with bars of one standard deviation"
        draw = partial(front_figure, run.front)
        sections.insert(_BEFORE_TABLES, _Section("front", "The front", alt, ((FRONT, run.front),), draw))
    return [section for section in sections if has_epochs or section.name not in ("search", "theta")]


def _section_html(section: _Section, run: Path, out: Path) -> str:
    """Draws a figure, writes its files and returns its part of the page; a note if something is missing."""
    heading = f"<h2>{with_hint(section.heading)}</h2>\n"
    if section.draw is None:
        missing = [name for name, value in section.needs if not value]
        for kind in ("png", "svg"):  # those of an earlier report would contradict the page
            (out / f"{section.name}.{kind}").unlink(missing_ok=True)
        return f'{heading}<p class="note">Left out: this run has no {escape(" and no ".join(missing))} yet.</p>\n'
    with damage(run / section.needs[0][0]):
        drawing = Drawing.of(section.draw, section.name, section.alt)
    return heading + drawing.write(out)


def _pruning_html(run: RunData, name: str, out: Path) -> str:
    """A pruning of the run's net: its figure, whose files are written, and its table."""
    record, metric = run.prunings[name], metric_name(run.result or {})
    heading, alt = (
        pruning_heading(name, record),
        "Accuracy of the nets of all rounds against what remains of them",
    )
    place = list(run.prunings).index(name) + 1  # a folder's name may be none for a file or an id
    drawing = Drawing.of(partial(pruning_figure, record, metric), f"pruning_{place}", alt)
    return f"<h2>{escape(heading)}</h2>\n" + drawing.write(out) + pruning_html(record, metric)


def _page(run: RunData, sections: Sequence[str], prunings: Sequence[str]) -> str:
    name = escape(run.folder.resolve().name)
    with damage(run.folder / RESULT):
        verdict, net, made, stages = verdict_html(run.result or {}), net_rows(run), made_rows(run), stage_rows(run)
        warnings = "".join(f'<p class="warning">Warning: {escape(text)}</p>\n' for text in warnings_of(run))
    with damage(run.folder / FRONT):
        front = front_html(run.front) if run.front else ""
    with damage(run.folder / LOOP):
        attempts = attempts_html(run.loop or {})
    body = (
        f"<h1>Run {name}</h1>\n"
        + ("" if run.result else f'<p class="note">This run is not finished: it has no {RESULT} yet.</p>\n')
        + verdict
        + warnings
        + ("<h2>The found net</h2>\n" + _table_html(net) if net else "")
        + "<h2>How it was made</h2>\n"
        + _table_html(made)
        + "".join(sections[:_BEFORE_TABLES])
        + attempts
        + "".join(sections[_BEFORE_TABLES:][:1] if run.front else [])
        + front
        + "".join(sections[_BEFORE_TABLES + bool(run.front) :])
        + "".join(prunings)
        + ("<h2>Time by stage</h2>\n" + _table_html(stages) if stages else "")
    )
    return document(name, body)


def _table_html(rows: Rows) -> str:
    body = "".join(f"<tr><th>{with_hint(name)}</th><td>{_value_html(name, value)}</td></tr>\n" for name, value in rows)
    return f"<table>\n{body}</table>\n" if rows else ""


def _value_html(name: str, value: str) -> str:
    if name == "Arch":
        return arch_html(value)
    return f"<code>{escape(value)}</code>" if name.startswith("Command") else escape(value)
