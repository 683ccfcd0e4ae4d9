"""``tvmfbnet targets``: list targets, and check whether one can be reached right now."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table

app = typer.Typer(help="Targets: list them, show one, check that one can be reached.", no_args_is_help=True)

TargetArgument = Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A known target, or a .yaml file.")]


@app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the targets in ./targets and the shipped ones. Example: tvmfbnet targets list."""
    from tvmfbnet.targets.definition import list_targets, load_target

    targets = [load_target(name) for name in list_targets()]
    if as_json:
        keys = ("name", "description", "exercised", "device")
        print_json([{key: getattr(target, key) for key in keys} for target in targets])
        return
    rows = [(item.name, item.device, "yes" if item.exercised else "no", item.description) for item in targets]
    print_table("", ("target", "device", "exercised", "what"), rows)


@app.command("show")
def show_command(target: TargetArgument, as_json: JsonFlag = False) -> None:
    """Show a target with every default filled in. Example: tvmfbnet targets show host --json."""
    from tvmfbnet.targets.definition import load_target

    content = load_target(target).model_dump(mode="json")
    if as_json:
        print_json(content)
        return
    import yaml

    print(yaml.safe_dump(content, sort_keys=False), end="")


@app.command("check")
def check_command(target: TargetArgument, as_json: JsonFlag = False) -> None:
    """The doctor: toolchain, tracker, device, versions, limits, canary kernel, noise; exit code 2 on a failure.

    Example: tvmfbnet targets check host
    """
    from tvmfbnet.advice import note
    from tvmfbnet.targets.definition import load_target

    loaded = load_target(target)
    note(target=target, named=loaded.name)

    from dataclasses import asdict

    from tvmfbnet.compiler.library import linker
    from tvmfbnet.profiling.doctor import examine

    checks = []
    for check in examine(loaded, linker):
        checks.append(check)
        if not as_json:
            advice = f"; {check.advice}" if check.advice else ""
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.found}{advice}", flush=True)
    good = all(check.ok for check in checks)
    if as_json:
        print_json({"target": loaded.name, "ok": good, "checks": [asdict(check) for check in checks]})
    if not good:
        raise typer.Exit(2)
