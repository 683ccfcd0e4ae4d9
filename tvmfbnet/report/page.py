"""The report of a run: reads the run folder, draws what is there and writes one self-contained HTML page.

Files: ``report/index.html`` (figures embedded, no scripts, nothing loaded from elsewhere) and every figure as PNG and
SVG beside it. A run that is not finished gets a report of what it has; the page names what is left out and why.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.files import make_folder, write_atomically, write_text
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.report import figures
from tvmfbnet.report.verdict import attempts_html, verdict_html
from tvmfbnet.run_files import read_run_file
from tvmfbnet.space.arch import Arch, parse_arch
from tvmfbnet.space.registry import list_spaces, load_space
from tvmfbnet.space.space import Space

_DPI = 160
_TABLE, _SEARCH, _RESULT, _LOOP = "table.json", "search/search.json", "result.json", "closed_loop.json"
_SEARCH_HISTORY, _TRAIN_HISTORY = "search/history.json", "train/history.json"


@dataclass(frozen=True)
class Run:
    """What a run folder holds; what is not there (yet) is None.

    Attributes:
        folder: the run folder.
        space: the search space.
        table: the latency table.
        search: ``search.json``.
        search_history: one record an epoch of the search.
        train_history: one record an epoch of the training.
        result: ``result.json``.
        loop: ``closed_loop.json``: the nets that were timed before one was trained.
        arch: the found net.
    """

    folder: Path
    space: Space | None
    table: LatencyTable | None
    search: Mapping[str, Any] | None
    search_history: Sequence[Mapping[str, Any]] | None
    train_history: Sequence[Mapping[str, Any]] | None
    result: Mapping[str, Any] | None
    loop: Mapping[str, Any] | None
    arch: Arch | None

    @property
    def target_ms(self) -> float | None:
        """Latency target of the search, if it is known and there was one."""
        return None if self.search is None else self.search.get("latency_target_ms")


@dataclass(frozen=True)
class _Section:
    """A figure of the page: file name, heading, alternative text; ``draw`` is None where a need is missing."""

    name: str
    heading: str
    alt: str
    needs: tuple[tuple[str, object], ...]
    draw: Callable[[], Figure] | None


def write_report(run: Path) -> Path:
    """Writes the report of a run folder, anew if there is one already.

    Args:
        run: the folder of a run: holds ``recipe.yaml``; all else may be missing.

    Returns:
        The page, ``run/report/index.html``.

    Raises:
        UserError: there is no such folder, or it is not that of a run.
        StorageError: a file of the run is damaged, or the report cannot be written.
    """
    loaded = read_run(run)
    out = make_folder(run / "report")
    parts = [_section_html(section, run, out) for section in _sections(loaded)]
    page = out / "index.html"
    write_text(page, _page(loaded, parts))
    return page


def read_run(folder: Path) -> Run:
    """Reads a run folder; :class:`UserError` if it is none, :class:`StorageError` names a file that is damaged."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give the --out folder of a run")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} is not a run (no recipe.yaml): give the --out folder of a run")
    raw_table, search, result, loop = (_read(folder, name) for name in (_TABLE, _SEARCH, _RESULT, _LOOP))
    space = None
    # The search keeps the whole space; the others may only name it.
    for name, record in ((_SEARCH, search), (_TABLE, raw_table), (_RESULT, result)):
        if space is None and record is not None and "space" in record:
            with _damage(folder / name):
                space = _space(record["space"])
    table = None
    if raw_table is not None:
        with _damage(folder / _TABLE):
            table = LatencyTable.from_records(
                raw_table["cells"], raw_table["overhead_ms"], raw_table["target"], raw_table.get("correction", "")
            )
    arch = None
    found = (result or {}).get("arch") or ((search or {}).get("best") or {}).get("arch")
    if space is not None and found is not None:
        with _damage(folder / (_RESULT if (result or {}).get("arch") else _SEARCH)):
            arch = parse_arch(found, space)
    searched, trained = (_read(folder, name) for name in (_SEARCH_HISTORY, _TRAIN_HISTORY))
    return Run(folder, space, table, search, searched, trained, result, loop, arch)


def _read(folder: Path, name: str) -> Any:
    """A file of the run that fits its schema, or None where there is none."""
    return read_run_file(folder, name) if (folder / name).is_file() else None


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turns errors over unexpected content into one that names the file."""
    try:
        yield
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, UserError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise StorageError(f"{path} is damaged or of another version ({what}); remove it and run again") from error


def _space(value: object) -> Space | None:
    """The space of a record: whole, or the name of a shipped one; None for the name of a user's own."""
    if isinstance(value, Mapping):
        return Space.from_dict(value)
    return load_space(str(value)) if value in list_spaces() else None


def _sections(run: Run) -> list[_Section]:
    """All figures, in the order of the page."""
    space, table, arch, result = run.space, run.table, run.arch, run.result
    searched, trained = run.search_history, run.train_history
    needs_space = ("search space (search/search.json, table.json or result.json)", space)
    needs_arch = ("found net (result.json or search/search.json)", arch)
    return [
        _Section(
            "arch",
            "The found net",
            "Rows of boxes, one row a stage, one box a block",
            (needs_arch, needs_space),
            partial(figures.arch_drawing, arch, space, table) if arch and space else None,
        ),
        _Section(
            "latency",
            "Predicted and measured latency",
            "Bars of predicted latency, measured latency and latency with ONNX Runtime",
            ((_RESULT, result),),
            partial(figures.latency_bars, result, run.target_ms) if result else None,
        ),
        _Section(
            "latency_map",
            "Latency table",
            "Heat map of the latency of every block in every layer",
            ((_TABLE, table), needs_space),
            partial(figures.latency_map, table, space) if table and space else None,
        ),
        _Section(
            "search",
            "Search",
            "Loss, accuracy, expected latency and temperature over the epochs of the search",
            ((_SEARCH_HISTORY, searched),),
            partial(figures.search_curves, searched, run.target_ms) if searched else None,
        ),
        _Section(
            "theta",
            "What the search came to prefer",
            "For every layer the probabilities of its blocks over the epochs of the search",
            ((_SEARCH_HISTORY, searched), needs_space),
            partial(figures.theta_over_epochs, searched, space) if searched and space else None,
        ),
        _Section(
            "training",
            "Training of the found net",
            "Loss and accuracy over the epochs of the training",
            ((_TRAIN_HISTORY, trained),),
            partial(figures.training_curves, trained) if trained else None,
        ),
    ]


def _section_html(section: _Section, run: Path, out: Path) -> str:
    """Draws a figure, writes its files and gives its part of the page; a note where something is missing."""
    heading = f"<h2>{escape(section.heading)}</h2>\n"
    files = [out / f"{section.name}.{kind}" for kind in ("png", "svg")]
    if section.draw is None:
        missing = [name for name, value in section.needs if not value]
        for path in files:  # of an earlier report: they would contradict the page
            path.unlink(missing_ok=True)
        return f'{heading}<p class="missing">Left out: this run has no {escape(" and no ".join(missing))} yet.</p>\n'
    with _damage(run / section.needs[0][0]):
        figure = section.draw()
    for path in files:
        _save(figure, path)
    image = base64.b64encode(files[0].read_bytes()).decode("ascii")
    return f'{heading}<img alt="{escape(section.alt)}" src="data:image/png;base64,{image}">\n'


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix[1:]
    # No date in the file: the same run gives the same SVG header.
    metadata = {"Date": None} if kind == "svg" else None
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=_DPI, metadata=metadata))


# --- the page ---

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a202c; background: #fff; max-width: 54rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
img { display: block; width: 100%; max-width: 46rem; height: auto; }
table { border-collapse: collapse; width: 100%; max-width: 46rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e2e8f0; }
th { font-weight: 500; color: #4a5568; width: 38%; }
td { overflow-wrap: anywhere; }
td.whole { overflow-wrap: normal; }
.verdict { padding: .6rem .9rem; border-left: 5px solid #2f855a; background: #f0fff4; font-size: 1.1rem; }
.verdict.missed { border-color: #c53030; background: #fff5f5; }
.verdict.undecided { border-color: #dd6b20; background: #fffaf0; }
.verdict small { display: block; font-size: .9rem; color: #4a5568; }
.wide th { width: auto; }
.wide td { overflow-wrap: break-word; }
.wide .arch { border-bottom: 0; overflow-wrap: anywhere; padding-bottom: 0; }
.missing { color: #744210; background: #fffaf0; padding: .5rem .8rem; border-left: 3px solid #ed8936; }
"""


def _page(run: Run, sections: Sequence[str]) -> str:
    name = escape(run.folder.resolve().name)
    with _damage(run.folder / _RESULT):
        verdict, summary, stages = verdict_html(run.result or {}), _summary_rows(run), _stage_rows(run)
    with _damage(run.folder / _LOOP):
        attempts = attempts_html(run.loop or {})
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>tvmfbnet: {name}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<h1>Run {name}</h1>\n"
        + ("" if run.result else f'<p class="missing">This run is not finished: it has no {_RESULT} yet.</p>\n')
        + verdict
        + _table_html(summary)
        + attempts
        + "".join(sections)
        + ("<h2>Time by stage</h2>\n" + _table_html(stages) if stages else "")
        + "</body>\n</html>\n"
    )


def _table_html(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(name)}</th>{_cell_html(name, value)}</tr>\n" for name, value in rows)
    return f"<table>\n{body}</table>\n" if rows else ""


def _cell_html(name: str, value: str) -> str:
    """An arch breaks between blocks and never inside one; other values where they must."""
    if name != "Arch":
        return f"<td>{escape(value)}</td>"
    return '<td class="whole">' + re.sub("([,/])", r"\1<wbr>", escape(value)) + "</td>"


def _summary_rows(run: Run) -> list[tuple[str, str]]:
    """Name and value of what is known; rows without a value are left out."""
    best = (run.search or {}).get("best") or {}
    result = {"arch": best.get("arch"), "predicted_ms": best.get("predicted_ms")} | dict(run.result or {})
    target = result.get("target") or (run.table.name if run.table else None)
    space = run.space.name if run.space else result.get("space")
    rows = [
        ("Arch", result.get("arch")),
        ("Search space", space),
        ("Target", target),
        ("Test accuracy", _format(result.get("test_accuracy"), "{:.2%}")),
        ("Latency target", _format(run.target_ms, "{:.4g} ms")),
        ("Predicted latency", _format(result.get("predicted_ms"), "{:.4g} ms")),
        ("Correction by whole nets", (run.table.correction or None) if run.table else None),
        ("Measured latency", _measured(result)),
        ("Speed factor of the device meanwhile", (result.get("speed_factor") or {}).get("description")),
        ("ONNX Runtime", _format(result.get("onnxruntime_ms"), "{:.4g} ms")),
        ("Predicted from measured blocks", _format(result.get("measured_share"), "{:.0%}")),
        ("Largest difference from PyTorch", _format(result.get("parity_error"), "{:.2g}")),
        ("Kernels with a tuning record", _kernels(result)),
        ("Threads", _format(result.get("threads"), "{}")),
        ("TVM target", json.dumps(result["tvm_target"]) if "tvm_target" in result else None),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _format(value: object, pattern: str) -> str | None:
    return None if value is None else pattern.format(value)


def _measured(result: Mapping[str, Any]) -> str | None:
    measured, spread, predicted = (result.get(f"{key}_ms") for key in ("measured", "measured_spread", "predicted"))
    if measured is None:
        return None
    text = f"{measured:.4g}" + (f" ± {spread:.2g}" if spread is not None else "") + " ms"
    bounds = result.get("interval")
    text += f" ({bounds['low_ms']:.4g} to {bounds['high_ms']:.4g} ms)" if bounds else ""
    return text + (f" (prediction off by {predicted / measured - 1:+.1%})" if predicted and measured else "")


def _kernels(result: Mapping[str, Any]) -> str | None:
    found, needed = result.get("kernels_found"), result.get("kernels_needed")
    return None if found is None or needed is None else f"{found} of {needed}"


def _stage_rows(run: Run) -> list[tuple[str, str]]:
    """Stages and how long they took, with the sum."""
    seconds = dict((run.result or {}).get("stage_seconds") or {})
    rows = [(str(name), _duration(float(value))) for name, value in seconds.items()]
    return [*rows, ("all", _duration(float(sum(seconds.values()))))] if rows else []


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
