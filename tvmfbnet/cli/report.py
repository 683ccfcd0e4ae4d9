"""``tvmfbnet report``: what a run did, as one HTML page and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json


def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report: one self-contained HTML page, and its figures as PNG and SVG, in RUN/report.

    Example: tvmfbnet report runs/demo
    """
    from tvmfbnet.report.page import write_report

    page = write_report(run)
    if as_json:
        print_json({"page": str(page), "figures": sorted(str(path) for path in page.parent.glob("*.png"))})
    else:
        print(f"report in {page}")
