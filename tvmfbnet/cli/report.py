"""``tvmfbnet report``: what a run did, as one HTML page and as figures; and runs for several devices, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tvmfbnet.cli.output import JsonFlag, print_json
from tvmfbnet.cli.report_cross_device import cross_device_command

_DEFAULT = "page"


class _ReportGroup(TyperGroup):
    """``report RUN`` is ``report page RUN``, as it was before there were other reports."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        asks_for_help = not args or args[0] == "--help"
        # A run's folder may have the name of a command, which needs an argument of its own.
        is_run = len(args) == 1 and Path(args[0]).is_dir()
        if not asks_for_help and (args[0] not in self.commands or is_run):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ReportGroup,
    no_args_is_help=True,
    help="Write a run's report, or compare runs for several devices.",
)


@app.command(_DEFAULT)
def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    as_json: JsonFlag = False,
) -> None:
    """Write a run's report: one self-contained HTML page, and its figures as PNG and SVG, in RUN/report.

    The word page may be left out: tvmfbnet report runs/demo.

    Example: tvmfbnet report page runs/demo
    """
    from tvmfbnet.report.page import write_report

    page = write_report(run)
    if as_json:
        print_json({"page": str(page), "figures": sorted(str(path) for path in page.parent.glob("*.png"))})
    else:
        print(f"report in {page}")


app.command("cross-device")(cross_device_command)
