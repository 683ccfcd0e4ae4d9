"""``tvmfbnet compile``: a net into a package for a target, checked on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.bench import end_with_verdict
from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, print_json
from tvmfbnet.cli.search import parse_latency
from tvmfbnet.progress import loading, say, step


def compile_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Folder of the package.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Trained weights (net.pt); random ones if not given.")] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Do not run it on the device.")] = False,
    device_model: Annotated[
        str | None, typer.Option("--device-model", help="Schedules of this device model (default: the last measured).")
    ] = None,
    latency_target: Annotated[
        str | None, typer.Option(metavar="LATENCY", help="Say whether it meets this, such as 8ms; exit code 3 if not.")
    ] = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a net with the schedules that tuning found; refused when the device's output differs from PyTorch's.

    The package carries that verdict, its latency as measured on the device, and the names of its classes. A trained net
    has the classes that it was trained on, whatever the space says.

    Example: tvmfbnet compile ARCH --space fbnet_mini --target host --checkpoint training/net.pt --out package
    """
    from tvmfbnet.advice import note, tune
    from tvmfbnet.errors import ArchError, UserError
    from tvmfbnet.preflight import check_all, require_file, require_writable_folder
    from tvmfbnet.provisioning.ready import require_ready
    from tvmfbnet.space.arch_text import format_arch, resolve_arch
    from tvmfbnet.space.registry import load_space, spelled_with_classes
    from tvmfbnet.targets.definition import load_target, resolve

    target_ms = parse_latency(latency_target) if latency_target is not None else None
    if build_only and target_ms is not None:
        raise UserError("--build-only times nothing, so there is no verdict on --latency-target; give one of the two")
    found, found_space = resolve_arch(arch, load_space(space))
    loaded = load_target(target)
    note(target=target, named=loaded.name, space=space, tuning_logs=tuning_logs, package=out)
    check_all(
        lambda: require_writable_folder(out),
        *([] if checkpoint is None else [lambda: require_file(checkpoint, "trained weights (net.pt)")]),
        lambda: require_ready(loaded, runs=not build_only),
    )

    with loading():
        from tvmfbnet.autotune.database import existing_database
        from tvmfbnet.deploy.description import require_same_net
        from tvmfbnet.deploy.package import compile_net, untrained_net
        from tvmfbnet.deploy.trial import certify_and_time, predicted_latency
        from tvmfbnet.training.train import load_net

    class_names: list[str] = []
    if checkpoint is None:
        net = untrained_net(found, found_space)
    else:
        net, about = load_net(checkpoint)
        class_names, classes = about["class_names"], net.space.classes
        if classes != found_space.classes and ",classes=" not in space:
            space = spelled_with_classes(space, classes)
            say(f"note: the net in {checkpoint} has {classes} classes; its space is {space}")
            note(space=space)
            found, found_space = resolve_arch(arch, load_space(space))
        if format_arch(net.arch, net.space) != format_arch(found, found_space):
            raise ArchError(f"{checkpoint} holds {format_arch(net.arch, net.space)}, not the arch that was asked for")
        require_same_net(checkpoint, found, net.space, found_space)
    loaded = resolve(loaded)
    database = existing_database(loaded, tuning_logs, device_model)
    if database is None:
        say(f"warning: nothing was tuned for {loaded.name} yet; kernels will be slow")
    with step("compiling the net"):
        package = compile_net(net, loaded, database, out, class_names)
    predicted_ms = predicted_latency(found, found_space, loaded, tuning_logs)
    package = package.with_description(latency_target_ms=target_ms, predicted_ms=predicted_ms)
    missing = package.kernels.missing
    if database is not None and missing:
        say(
            f"warning: {len(missing)} of {package.kernels.needed} conv kernels were never tuned and will be slow; "
            f"tune them with {tune(loaded.name, arch=arch)}"
        )
    latency = verdict = None
    if not build_only:
        package, latency = certify_and_time(package, net, loaded, target_ms)
        verdict = None if target_ms is None else latency.verdict(target_ms)
    kernels, error = package.kernels, package.description.parity.error
    if as_json:
        print_json(
            {
                **{"package": str(out), "arch": package.arch},
                **{"kernels_needed": kernels.needed, "kernels_found": kernels.found},
                **{"parity": package.description.parity.verdict, "parity_error": error},
                "class_names": class_names,
                "latency_ms": None if latency is None else latency.interval.value,
                "predicted_ms": predicted_ms,
                **({} if verdict is None else verdict.to_dict()),
            }
        )
    elif latency is None:
        print(f"package {out}: {kernels.found} of {kernels.needed} conv kernels tuned, not run on the device")
    else:
        tuned = f"{kernels.found} of {kernels.needed} conv kernels tuned"
        print(f"package {out}: {tuned}, parity error {error:.1e}, {latency.interval.describe()}")
    if class_names and not as_json:
        print(
            f"outputs, in order: {', '.join(class_names)}"
            if len(class_names) <= 10
            else f"{len(class_names)} outputs, named in {out / 'package.json'}"
        )
    end_with_verdict(verdict, as_json)
