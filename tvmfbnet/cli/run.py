"""``tvmfbnet run``: a whole recipe, resumable at any point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table


def run_command(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (demo) or a .yaml file.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/RECIPE.")] = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tune, search, train, compile, check, time and report; started again, goes on where it stopped.

    Example: tvmfbnet run demo
    """
    from tvmfbnet.pipeline import Run, load_recipe

    name, loaded = load_recipe(recipe)
    result = Run(loaded, out or Path("runs") / name, tuning_logs).go()
    if as_json:
        print_json({**result.values, "report": str(result.report)})
        return
    values = result.values
    reference = values["onnxruntime_ms"]
    rows = [
        ("found arch", values["arch"]),
        ("predicted latency", f"{values['predicted_ms']:.4f} ms ({values['measured_share']:.0%} of it measured)"),
        ("measured latency", f"{values['measured_ms']:.4f} ms +- {values['measured_spread_ms']:.4f}"),
        ("ONNX Runtime", "not on this device" if reference is None else f"{reference:.4f} ms"),
        ("parity error", f"{values['parity_error']:.1e} relative to PyTorch"),
        ("tuned kernels", f"{values['kernels_found']} of {values['kernels_needed']} conv kernels"),
        ("test accuracy", f"{values['test_accuracy']:.2%}"),
        *((f"time: {stage}", f"{seconds:.0f} s") for stage, seconds in values["stage_seconds"].items()),
    ]
    print_table("", ("what", "result"), rows)
    print(f"report: {result.report}")
