"""``tvmfbnet bench``: a package's latency on the device, beside ONNX Runtime's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json
from tvmfbnet.cli.search import parse_latency
from tvmfbnet.cli.tune import parse_duration

if TYPE_CHECKING:
    from tvmfbnet.latency.verdict import Verdict


def bench_command(
    package: Annotated[Path, typer.Argument(help="A package: the --out folder of compile.")],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    latency_target: Annotated[
        str | None, typer.Option(metavar="LATENCY", help="Say whether it meets this, such as 8ms; exit code 3 if not.")
    ] = None,
    sustained: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Then run without a pause for so long: 60s."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Time it although it failed the parity check.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Time a package on the device; on this machine's own CPU also under ONNX Runtime, with as many threads.

    A phone that is warm is slower: --sustained says what is left after running that long.

    Example: tvmfbnet bench runs/demo/package --target host --sustained 60s
    """
    from contextlib import suppress

    from tvmfbnet.advice import remember
    from tvmfbnet.deploy.description import read_description
    from tvmfbnet.devices.ready import require_ready
    from tvmfbnet.devices.target import load_target, resolve_native
    from tvmfbnet.errors import UserError
    from tvmfbnet.space.registry import load_space

    target_ms = parse_latency(latency_target) if latency_target is not None else None
    loaded = load_target(target)
    remember(target=target, named=loaded.name, package=package)
    described = read_description(package)
    with suppress(UserError):  # the space may be of a file, whose place the package does not know
        remember(space=load_space(described.space).name)
    require_ready(loaded)

    from tvmfbnet.deploy.bench import bench_package
    from tvmfbnet.deploy.package import load_package
    from tvmfbnet.devices.local import reach

    loaded = resolve_native(loaded)
    opened = load_package(package, loaded, force)
    with reach(loaded) as endpoint:
        result = bench_package(opened, loaded, endpoint, sustained or 0.0, target_ms)
    if as_json:
        print_json({"arch": opened.arch, "parity": opened.description.parity.verdict, **result.values})
    else:
        print(f"{opened.arch}: {result.latency_ms:.4f} ms +- {result.net.spread_ms:.4f} ({loaded.threads} thread(s))")
        if result.sustained_ms is not None:
            ratio = result.sustained_ms / result.latency_ms
            print(f"after {sustained:g} s without a pause: {result.sustained_ms:.4f} ms (ratio {ratio:.2f})")
        if result.onnxruntime_ms is not None:
            ratio = result.latency_ms / result.onnxruntime_ms
            print(f"ONNX Runtime: {result.onnxruntime_ms:.4f} ms; the package takes {ratio:.2f} of its time")
    end_with_verdict(result.verdict, as_json)


def end_with_verdict(verdict: Verdict | None, as_json: bool) -> None:
    """Prints a verdict and its advice, and ends the command with its exit code; does nothing without one."""
    if verdict is None:
        return
    if not as_json:
        print(verdict.describe())
        if verdict.advice():
            print(f"advice: {verdict.advice()}")
    raise typer.Exit(verdict.exit_code)
