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
from tvmfbnet.report.canvas import NARROW, WIDE, inline_svg, save, svg_text
from tvmfbnet.report.front import front_figure, front_html
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
from tvmfbnet.report.summary import Rows, made_rows, net_rows, stage_rows, warnings_of
from tvmfbnet.report.terms import glossary_html, with_hint
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
    page = out / "index.html"
    write_text(page, _page(loaded, parts))
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
            "Loss, top-1 accuracy, expected latency and temperature over the epochs of the search",
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
            "Loss and top-1 accuracy over the epochs of the training",
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
    image, drawing = (out / f"{section.name}.{kind}" for kind in ("png", "svg"))
    if section.draw is None:
        missing = [name for name, value in section.needs if not value]
        for path in (image, drawing):  # those of an earlier report would contradict the page
            path.unlink(missing_ok=True)
        return f'{heading}<p class="note">Left out: this run has no {escape(" and no ".join(missing))} yet.</p>\n'
    with damage(run / section.needs[0][0]):
        wide, narrow = section.draw(canvas=WIDE), section.draw(canvas=NARROW)
        documents = {"wide": svg_text(wide, section.name), "narrow": svg_text(narrow, section.name)}
    write_text(drawing, documents["wide"])
    save(wide, image)
    parts = {kind: inline_svg(text, f"{section.name}-{kind}", section.alt) for kind, text in documents.items()}
    return heading + "".join(f'<figure class="{kind}">{svg}</figure>\n' for kind, svg in parts.items())


# --- the page ---

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff; max-width: 46rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.2rem 0 .3rem; }
figure { margin: 0; overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: "DejaVu Sans", Verdana, sans-serif; }
figure.narrow { display: none; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e2e8f0; }
th { font-weight: 500; color: #4a5568; width: 38%; }
td { overflow-wrap: anywhere; }
td .arch { overflow-wrap: normal; }
code { font-size: .9em; }
abbr { text-decoration: underline dotted #718096; cursor: help; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; color: #4a5568; }
table.front th { width: auto; }
.verdict { padding: .6rem .9rem; border-left: 5px solid #2f855a; background: #f0fff4; font-size: 1.1rem; }
.verdict.missed { border-color: #c53030; background: #fff5f5; }
.verdict.undecided { border-color: #dd6b20; background: #fffaf0; }
.verdict small { display: block; font-size: .9rem; color: #4a5568; }
.note, .warning { color: #744210; background: #fffaf0; padding: .5rem .8rem; border-left: 3px solid #ed8936; }
@media (max-width: 680px) {
  figure.wide { display: none; }
  figure.narrow { display: block; }
}
"""


def _page(run: RunData, sections: Sequence[str]) -> str:
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
        + ("<h2>Time by stage</h2>\n" + _table_html(stages) if stages else "")
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>tvmfbnet: {name}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"{body}{glossary_html(body)}</body>\n</html>\n"
    )


def _table_html(rows: Rows) -> str:
    body = "".join(f"<tr><th>{with_hint(name)}</th><td>{_value_html(name, value)}</td></tr>\n" for name, value in rows)
    return f"<table>\n{body}</table>\n" if rows else ""


def _value_html(name: str, value: str) -> str:
    if name == "Arch":
        return arch_html(value)
    return f"<code>{escape(value)}</code>" if name.startswith("Command") else escape(value)
