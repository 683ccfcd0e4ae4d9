"""``tvmfbnet compile``: a net into a package for a target, checked on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmfbnet.cli.bench import end_with_verdict
from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, MixableDtypeOption, print_json
from tvmfbnet.cli.search import parse_latency
from tvmfbnet.dtypes import MAX_ACCURACY_LOSS

# That of tvmfbnet.config, which help does not load.
_MOST_EPOCHS = 100_000


def compile_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)],
    target: Annotated[str, typer.Option(help="Target: a name or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Folder of the package.")],
    dtype: MixableDtypeOption = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Trained weights (net.pt); random ones if not given.")] = None,
    build_only: Annotated[bool, typer.Option("--build-only", help="Do not run it on the device.")] = False,
    device_model: Annotated[
        str | None, typer.Option("--device-model", help="Schedules of this device model (default: the last measured).")
    ] = None,
    latency_target: Annotated[
        str | None, typer.Option(metavar="LATENCY", help="Say whether it meets this, such as 8ms; exit code 3 if not.")
    ] = None,
    max_accuracy_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            help="Accuracy in percentage points that a trained net may lose in its dtype.",
        ),
    ] = MAX_ACCURACY_LOSS,
    fine_tune_epochs: Annotated[
        int,
        typer.Option(
            min=0,
            max=_MOST_EPOCHS,
            metavar="N",
            help="Train on in int8 for these epochs; kept if held-out images get better by it.",
        ),
    ] = 0,
    max_package_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Refuse it where a device needs more on disk than this, such as 600kB."),
    ] = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a net with the schedules that tuning found; refused when the device's output differs from PyTorch's.

    The package carries that verdict, its latency as measured on the device, and the names of its classes. A trained net
    has the classes that it was trained on, whatever the space says.

    Example: tvmfbnet compile ARCH --space fbnet_mini --target host --checkpoint training/net.pt --out package
    """
    from tvmfbnet.advice import note
    from tvmfbnet.api.compile import CompileOptions, compile_and_time
    from tvmfbnet.deploy.description import DESCRIPTION, MEMORY, describe_outputs
    from tvmfbnet.dtypes import spelled_with_dtype, without_mixed
    from tvmfbnet.errors import UserError
    from tvmfbnet.search.quantities.size import SIZE
    from tvmfbnet.targets.definition import load_target

    target = spelled_with_dtype(target, dtype)
    target_ms = parse_latency(latency_target) if latency_target is not None else None
    if build_only and target_ms is not None:
        raise UserError("--build-only times nothing, so there is no verdict on --latency-target; give one of the two")
    options = CompileOptions(
        checkpoint=checkpoint,
        build_only=build_only,
        latency_target_ms=target_ms,
        device_model=device_model,
        max_accuracy_loss=max_accuracy_loss,
        fine_tune_epochs=fine_tune_epochs,
        max_package_bytes=None if max_package_size is None else max(1, int(SIZE.parse(max_package_size))),
    )
    made = compile_and_time(arch, space, target, options, out=out, tuning_logs=tuning_logs)
    # The verdict's advice repeats these.
    single = without_mixed(target)
    note(target=single, named=load_target(single).name, space=made.space, tuning_logs=tuning_logs, package=out)
    package, latency, verdict = made.package, made.latency, made.verdict
    class_names, predicted_ms = list(package.description.class_names), package.description.predicted_ms
    kernels, error, tuning = package.kernels, package.description.parity.error, package.description.fine_tuning
    if as_json:
        print_json(
            {
                **{"package": str(out), "arch": package.arch},
                **{"kernels_needed": kernels.needed, "kernels_found": kernels.tuned},
                **{name: getattr(package.description, name) for name in MEMORY},
                **{"package_bytes": package.package_bytes, "shipped_bytes": package.shipped_bytes},
                **{"parity": package.description.parity.verdict, "parity_error": error},
                **{"dtype": package.description.dtype, "agreement": package.description.parity.agreement},
                "fine_tuning": None if tuning is None else tuning.model_dump(),
                "float32_units": list(package.description.float32_units),
                "class_names": class_names,
                "outputs": [output.model_dump() for output in package.description.outputs],
                "latency_ms": None if latency is None else latency.interval.value,
                "predicted_ms": predicted_ms,
                **({} if verdict is None else verdict.to_dict()),
            }
        )
    elif latency is None:
        print(f"package {out}: {kernels.tuned} of {kernels.needed} conv kernels tuned, not run on the device")
    else:
        tuned = f"{kernels.tuned} of {kernels.needed} conv kernels tuned"
        print(f"package {out}: {tuned}, parity error {error:.1e}, {latency.interval.describe()}")
    if not as_json:
        print(package.description.describe_memory())
        total, shipped = package.package_bytes / 1e3, package.shipped_bytes / 1e3
        print(f"on disk: {total:.1f} kB, of which a device needs {shipped:.1f} kB (the library and {DESCRIPTION})")
    agreement = package.description.parity.describe_agreement()
    if agreement is not None and not as_json:
        print(f"{package.description.dtype}: {agreement}")
    if tuning is not None and not as_json:
        print(f"fine-tuning: {tuning.describe()}")
    if not as_json:
        for line in describe_outputs(package.description, out):
            print(line)
    end_with_verdict(verdict, as_json)
