"""Shared by all figures: two widths, plain axes, a legend below, and SVG for embedding in a page.

A figure is drawn twice, for a page's column and for a phone, where the wide one scaled down would be illegible. Only
matplotlib's object interface is used (no pyplot), so no global state is touched and no display is needed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tvmfbnet.files import write_atomically, write_text

SMALL, MIDDLE = 7.5, 8.5
BLUE, ORANGE, GREY, RED, INK = "#2b6cb0", "#c05621", "#718096", "#c53030", "#1a202c"
_DPI = 160
_POINTS = 72  # an inch; a pixel of a page is three quarters of a point
# Of DejaVu Sans, relative to its size: enough for a line of block names and figures.
_LETTER = 0.61


@dataclass(frozen=True)
class Canvas:
    """The width of a figure in inches, and how many legend entries or panels it has side by side."""

    width: float
    columns: int

    @property
    def narrow(self) -> bool:
        """Whether it is for a phone."""
        return self.width < WIDE.width

    def figure(self, height: float) -> Figure:
        """An empty figure, ``height`` inches high."""
        return Figure(figsize=(self.width, height), layout="constrained")


WIDE, NARROW = Canvas(6.6, 4), Canvas(3.7, 2)


def letters_in(inches: float, size: float) -> int:
    """How many characters of a font size (points) fit into a width."""
    return max(int(inches * _POINTS / (_LETTER * size)), 8)


def tidy(axes: Axes, title: str, label: str = "") -> None:
    """Title at the left, small labels, no frame at the top and right."""
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.set_ylabel(label, fontsize=MIDDLE)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    """A legend below the figure, if there are any entries."""
    if handles:
        options: dict[str, Any] = {"fontsize": 8, "frameon": False, "columnspacing": 1.2, "handlelength": 1.8}
        figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, **options)


def legend_height(entries: int, columns: int) -> float:
    """Height in inches of a legend with this many entries."""
    return 0.12 + 0.18 * -(-entries // columns)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the file's suffix; equal figures give equal files."""
    kind = path.suffix[1:].lower()
    if kind == "svg":
        write_text(path, svg_text(figure, path.stem))
    else:
        _lay_out(figure)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=_DPI))


def svg_text(figure: Figure, name: str) -> str:
    """A figure as an SVG document; its ids derive from ``name``, so equal figures give equal text."""
    buffer = io.StringIO()
    _lay_out(figure)
    # Text stays text: selectable, searchable and readable by screen readers.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _lay_out(figure: Figure) -> None:
    """Places all that a figure has, once: matplotlib does it twice for every format, and draws in vain in between."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def inline_svg(document: str, name: str, alt: str) -> str:
    """An SVG document as an element of a page: with a viewBox but no size, and ids unique to it.

    Args:
        document: from :func:`svg_text`.
        name: prefix of its ids, unique in the page.
        alt: text that describes the figure.
    """
    text = document[document.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    # Figures of a page must not share ids: the browser would use the first one, hidden or not.
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)  # the page sets it
    # Hundredths of a point are finer than any screen.
    body = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(alt)}">{body}'
