"""``tvmfbnet bench``: a package's latency on the device, beside ONNX Runtime's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json
from tvmfbnet.cli.tune import parse_duration


def bench_command(
    package: Annotated[Path, typer.Argument(help="Folder that `tvmfbnet compile` wrote.")],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    sustained: Annotated[
        float,
        typer.Option(parser=parse_duration, metavar="DURATION", help="Then run without a pause for so long: 60s."),
    ] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Time a package on the device; on this machine's own CPU also under ONNX Runtime, with as many threads.

    A phone that is warm is slower: --sustained says what is left after running that long.

    Example: tvmfbnet bench runs/demo/package --target host --sustained 60s
    """
    from tvmfbnet.devices.target import load_target, resolve_native

    loaded = load_target(target)

    from dataclasses import asdict

    from tvmfbnet.deploy.bench import bench_package
    from tvmfbnet.deploy.package import load_package
    from tvmfbnet.devices.local import reach

    opened = load_package(package)
    loaded = resolve_native(loaded)
    with reach(loaded) as endpoint:
        result = bench_package(opened, loaded, endpoint, sustained)
    if as_json:
        print_json(asdict(result))
        return
    print(f"{opened.arch}: {result.latency_ms:.4f} ms +- {result.spread_ms:.4f} ({result.threads} thread(s))")
    if result.sustained_ms is not None:
        ratio = result.sustained_ms / result.latency_ms
        print(f"after {sustained:g} s without a pause: {result.sustained_ms:.4f} ms (ratio {ratio:.2f})")
    if result.onnxruntime_ms is not None:
        ratio = result.latency_ms / result.onnxruntime_ms
        print(f"ONNX Runtime: {result.onnxruntime_ms:.4f} ms (ratio {ratio:.2f})")
