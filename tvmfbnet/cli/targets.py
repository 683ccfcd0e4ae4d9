"""``tvmfbnet targets``: what can be compiled for, and whether one of them can be reached right now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from tvmfbnet.devices.remote import Session
    from tvmfbnet.devices.target import Target, Toolchain
    from tvmfbnet.devices.tracker import Endpoint

app = typer.Typer(help="Targets: list them, show one, check that one can be reached.", no_args_is_help=True)

TargetArgument = Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A known target, or a .yaml file.")]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    name: str
    ok: bool
    detail: str


@app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the targets in ./targets and the shipped ones. Example: tvmfbnet targets list."""
    from tvmfbnet.devices.target import list_targets, load_target

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
    from tvmfbnet.devices.target import load_target

    content = load_target(target).model_dump(mode="json")
    if as_json:
        print_json(content)
        return
    import yaml

    print(yaml.safe_dump(content, sort_keys=False), end="")


@app.command("check")
def check_command(target: TargetArgument, as_json: JsonFlag = False) -> None:
    """Check toolchain, tracker, key and connection; exit code 2 when one is not in order.

    Example: tvmfbnet targets check host
    """
    from tvmfbnet.devices.target import load_target

    found = load_target(target)
    checks = []
    for check in _checks(found):
        checks.append(check)
        if not as_json:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}", flush=True)
    good = all(check.ok for check in checks)
    if as_json:
        print_json({"target": found.name, "ok": good, "checks": [asdict(check) for check in checks]})
    if not good:
        raise typer.Exit(2)


def _checks(target: Target) -> Iterator[Check]:
    """Each check in turn; what depends on a failed one is not tried."""
    yield _check_toolchain(target.toolchain)
    with ExitStack() as stack:
        for check in _check_device(target, stack):
            yield check
            if not check.ok:
                return


def _check_toolchain(toolchain: Toolchain) -> Check:
    import importlib.util
    import os
    import shutil

    if toolchain.kind == "zig":
        ok = importlib.util.find_spec("ziglang") is not None
        return Check("toolchain", ok, f"zig for {toolchain.triple}" if ok else "no zig: pip install ziglang")
    if toolchain.kind == "ndk":
        command = os.environ.get("TVM_NDK_CC", "")
        if not command:
            return Check("toolchain", False, "TVM_NDK_CC is not set: point it at clang of the Android NDK")
    else:
        command = toolchain.command
    path = shutil.which(command)
    return Check("toolchain", path is not None, path or f"{command} is not on PATH: install it")


def _check_device(target: Target, stack: ExitStack) -> Iterator[Check]:
    from tvmfbnet.devices.local import reach
    from tvmfbnet.devices.tracker import Endpoint, query_tracker
    from tvmfbnet.errors import DeviceError

    endpoint = Endpoint(target.transport.host, target.transport.port, target.transport.key)
    try:
        if target.transport.kind == "local":
            endpoint = stack.enter_context(reach(target))
        status = query_tracker(endpoint.host, endpoint.port)
    except DeviceError as error:
        yield Check("tracker", False, str(error))
        return
    yield Check("tracker", True, f"{endpoint.address}, servers registered: {len(status.servers)}")
    serving = status.serving(endpoint.key)
    yield Check("key", serving > 0, f"devices that serve {endpoint.key!r}: {serving}")
    yield _check_connection(target, endpoint)


def _check_connection(target: Target, endpoint: Endpoint) -> Check:
    from tvmfbnet.devices.remote import RemoteWorker
    from tvmfbnet.errors import DeviceError

    try:
        with RemoteWorker(endpoint, target.device, target.timeouts.session) as worker:
            # The worker loads TVM before it connects, hence more than the connection's own deadline.
            exists = worker.call(_device_exists, seconds=target.timeouts.connect + 30)
    except DeviceError as error:
        return Check("connect", False, str(error))
    return Check("connect", exists, f"device {target.device!r} {'answers' if exists else 'does not exist there'}")


def _device_exists(session: Session) -> bool:
    """Runs in the worker process: whether the remote runtime has the device."""
    return bool(session.device.exist)
