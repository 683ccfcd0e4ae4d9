"""``tvmfbnet bench``: a package's latency on the device, beside ONNX Runtime's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json


def bench_command(
    package: Annotated[Path, typer.Argument(help="Folder that `tvmfbnet compile` wrote.")],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    as_json: JsonFlag = False,
) -> None:
    """Time a package on the device; on this machine's own CPU also under ONNX Runtime, with as many threads.

    Example: tvmfbnet bench runs/demo/package --target host
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
        result = bench_package(opened, loaded, endpoint)
    if as_json:
        print_json(asdict(result))
        return
    print(f"{opened.arch}: {result.latency_ms:.4f} ms +- {result.spread_ms:.4f} ({result.threads} thread(s))")
    if result.onnxruntime_ms is not None:
        ratio = result.latency_ms / result.onnxruntime_ms
        print(f"ONNX Runtime: {result.onnxruntime_ms:.4f} ms (ratio {ratio:.2f})")
