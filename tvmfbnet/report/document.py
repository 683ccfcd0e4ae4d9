"""What every page has: the document around its body, its style, and figures that are also files beside it.

A page is one HTML file without scripts or external resources. Each figure is drawn for a page and for a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from tvmfbnet.files import write_text
from tvmfbnet.report.canvas import NARROW, WIDE, inline_svg, save, svg_text
from tvmfbnet.report.terms import glossary_html

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
table.front th, table.nets th { width: auto; }
table.nets td, table.nets th { padding-right: 1.1rem; }
table.nets td { overflow-wrap: normal; }
table.nets small { display: block; color: #4a5568; white-space: nowrap; }
.scroll { overflow-x: auto; }
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


def document(title: str, body: str) -> str:
    """A whole page: the body, and below it the terms that it uses.

    Args:
        title: of the window, HTML-escaped.
        body: HTML.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>tvmfbnet: {title}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"{body}{glossary_html(body)}</body>\n</html>\n"
    )


@dataclass(frozen=True)
class Drawing:
    """A figure drawn for a page and for a phone.

    Attributes:
        name: of its files, unique in the page.
        alt: text that describes it.
        wide: the figure for a page.
        documents: both as SVG, ``wide`` and ``narrow``.
    """

    name: str
    alt: str
    wide: Figure
    documents: Mapping[str, str]

    @classmethod
    def of(cls, draw: Callable[..., Figure], name: str, alt: str) -> Drawing:
        """Draws it; ``draw`` makes the figure for a ``canvas``."""
        wide, narrow = draw(canvas=WIDE), draw(canvas=NARROW)
        return cls(name, alt, wide, {"wide": svg_text(wide, name), "narrow": svg_text(narrow, name)})

    def write(self, folder: Path) -> str:
        """Writes its PNG and SVG into a folder, and returns both widths as HTML."""
        write_text(folder / f"{self.name}.svg", self.documents["wide"])
        save(self.wide, folder / f"{self.name}.png")
        return "".join(
            f'<figure class="{kind}">{inline_svg(text, f"{self.name}-{kind}", self.alt)}</figure>\n'
            for kind, text in self.documents.items()
        )


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """A table with column heads, all cells HTML; it scrolls sideways where it is wider than the screen.

    Args:
        heads: of the columns.
        rows: of cells.
        kind: its class.
    """
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table class="{escape(kind)}">\n<tr>{head}</tr>\n{body}</table></div>\n'
