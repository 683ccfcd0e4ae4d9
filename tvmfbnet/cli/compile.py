"""``tvmfbnet compile``: a net into a package for a target, checked on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json
from tvmfbnet.progress import say


def compile_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help="Search space: a shipped name or a .yaml file.")],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Folder of the package.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Trained weights (net.pt); random ones if not given.")] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Do not run it on the device.")] = False,
    device_model: Annotated[
        str | None, typer.Option("--device-model", help="Schedules of this device model (default: the last measured).")
    ] = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a net with the schedules that tuning found; refused when the device's output differs from PyTorch's.

    Example: tvmfbnet compile ARCH --space fbnet_mini --target host --checkpoint training/net.pt --out package
    """
    from tvmfbnet.devices.target import load_target, resolve_native
    from tvmfbnet.space.arch import format_arch, resolve_arch
    from tvmfbnet.space.registry import load_space

    found, found_space = resolve_arch(arch, load_space(space))
    loaded = load_target(target)

    from tvmfbnet.deploy.package import check_parity, compile_net, untrained_net
    from tvmfbnet.devices.local import reach
    from tvmfbnet.errors import ArchError
    from tvmfbnet.training.run import load_net
    from tvmfbnet.tuning.database import existing_database

    net = untrained_net(found, found_space) if checkpoint is None else load_net(checkpoint)[0]
    if format_arch(net.arch, net.space) != format_arch(found, found_space):
        raise ArchError(f"{checkpoint} holds {format_arch(net.arch, net.space)}, not the arch that was asked for")
    loaded = resolve_native(loaded)
    database = existing_database(loaded, tuning_logs, device_model)
    if database is None:
        say(f"warning: nothing was tuned for {loaded.name} yet; kernels will be slow")
    package = compile_net(net, loaded, database, out)
    missing = package.kernels.missing
    if database is not None and missing:
        say(
            f"warning: {len(missing)} of {package.kernels.needed} conv kernels were never tuned and will be slow; "
            f"tune them with `tvmfbnet tune --target {target} --space {space} --arch {arch}`"
        )
    error = None
    if not build_only:
        with reach(loaded) as endpoint:
            error = check_parity(package, net, loaded, endpoint)
    kernels = package.kernels
    if as_json:
        counts = {"kernels_needed": kernels.needed, "kernels_found": kernels.found}
        print_json({"package": str(out), "arch": package.arch, **counts, "parity_error": error})
    else:
        checked = "not run on the device" if error is None else f"parity error {error:.1e}"
        print(f"package {out}: {kernels.found} of {kernels.needed} conv kernels tuned, {checked}")
