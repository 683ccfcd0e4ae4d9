"""``tvmfbnet device``: build what runs on a device, bring it there, start and stop it, read its log."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import JsonFlag, print_json

if TYPE_CHECKING:
    from tvmfbnet.provisioning.shell_base import Shell
    from tvmfbnet.targets.definition import Target

app = typer.Typer(help="The device's side: build, push, start, stop, logs.", no_args_is_help=True)

TargetOption = Annotated[str, typer.Option(help="Target: a name or a .yaml file.")]
TvmSource = Annotated[Path | None, typer.Option(help="TVM's source tree, for Android.")]


@dataclass(frozen=True)
class DeviceConnection:
    """The device that a command's options name: its target, a shell there, the folder that the user chose."""

    target: Target
    shell: Shell
    folder: str

    @property
    def words(self) -> list[str]:
        """The options that connect to it, but for the target."""
        return [*self.shell.words, *(["--folder", self.folder] if self.folder else [])]


def _connect(
    target: TargetOption,
    ssh: Annotated[str, typer.Option(metavar="USER@HOST", help="A board reached over SSH.")] = "",
    ssh_option: Annotated[list[str] | None, typer.Option(help="As for ssh -o, such as Port=2222.")] = None,
    adb: Annotated[bool, typer.Option("--adb", help="A phone reached over adb.")] = False,
    serial: Annotated[
        str, typer.Option(help="The phone's serial number; else $ANDROID_SERIAL, else the only phone.")
    ] = "",
    folder: Annotated[str, typer.Option(help="Folder on the device; a sensible one if not given.")] = "",
) -> DeviceConnection:
    """SSH, adb, or this machine when there are neither."""
    from tvmfbnet.advice import note
    from tvmfbnet.errors import UserError
    from tvmfbnet.provisioning.adb_shell import AdbShell
    from tvmfbnet.provisioning.shells import LocalShell, SshShell
    from tvmfbnet.targets.definition import load_target
    from tvmfbnet.tools import cache_folder

    loaded = load_target(target)
    note(target=target, named=loaded.name)
    if loaded.is_simulated:
        raise UserError(
            f"target {loaded.name} is simulated: there is no device to reach. Commands that need "
            "one, such as tune and bench, start it here themselves"
        )
    if ssh and (adb or serial):
        raise UserError("give --ssh or --adb, not both")
    if ssh:
        return DeviceConnection(loaded, SshShell(ssh, ssh_option or [], cache_folder() / "tunnels"), folder)
    if adb or serial:
        return DeviceConnection(loaded, AdbShell(serial), folder)
    return DeviceConnection(loaded, LocalShell(cache_folder() / "devices" / loaded.name), folder)


def _with_device(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of :func:`_connect`; its first argument is what they connect to."""
    shared = inspect.signature(_connect, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(_connect(**{name: values.pop(name) for name in shared}), **values)

    parameters = [*shared.values(), *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@app.command("build")
def build_command(
    target: TargetOption,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; in the cache if not given.")] = None,
    tvm_source: TvmSource = None,
    as_json: JsonFlag = False,
) -> None:
    """Build the server and the native runner for a target, with the toolchain that the target names.

    Example: tvmfbnet device build --target rpi4 --out device-rpi4
    """
    from tvmfbnet.advice import note
    from tvmfbnet.provisioning.programs import build_programs
    from tvmfbnet.targets.definition import load_target

    loaded = load_target(target)
    note(target=target, named=loaded.name)
    programs = build_programs(loaded, out, tvm_source)
    if as_json:
        print_json(
            {"folder": str(programs.folder), "files": [file.name for file in programs.files], "bytes": programs.bytes}
        )
    else:
        print(f"device programs for {target}: {programs.folder} ({programs.bytes / 1e6:.1f} MB)")


@app.command("push")
@_with_device
def push_command(
    device: DeviceConnection,
    tvm_source: TvmSource = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring the device programs to a device (built first where they are not yet) and try them there.

    Example: tvmfbnet device push --target rpi4 --ssh pi@raspberrypi
    """
    from tvmfbnet.progress import step
    from tvmfbnet.provisioning.programs import build_programs, require_tools
    from tvmfbnet.provisioning.pushing import prepare, push
    from tvmfbnet.provisioning.remote_server import device_facts_by_shell
    from tvmfbnet.provisioning.system_check import check_system
    from tvmfbnet.provisioning.ways import save_connection

    shell = device.shell
    require_tools(device.target, tvm_source)  # all of it before minutes go into building
    with step(f"connecting to {shell.where}"):
        check_system(shell, device.target)
        prepare(shell, device.folder)
    where = push(shell, build_programs(device.target, None, tvm_source), device.folder)
    with step("trying the server there"):
        facts = device_facts_by_shell(shell, device.target, where)
    save_connection(device.target, device.words)
    if as_json:
        print_json({"where": shell.where, "folder": where, "device": facts})
    else:
        print(
            f"pushed to {shell.where}, folder {where}; runs there ({facts.get('model', '')} {facts.get('machine', '')})"
        )


@app.command("start")
@_with_device
def start_command(
    device: DeviceConnection,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port on the device.")] = 9090,
    tracker_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The tracker's port; the target's if not given.")
    ] = None,
    device_tracker_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where the device sees it; the same.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start the pushed server and the tunnel to it; both run until `device stop`. Nothing listens beyond loopback.

    Example: tvmfbnet device start --target rpi4 --ssh pi@raspberrypi
    """
    from dataclasses import asdict

    from tvmfbnet.provisioning.remote_server import start
    from tvmfbnet.provisioning.ways import save_connection
    from tvmfbnet.rpc.addresses import join_address

    shell, target = device.shell, device.target
    tracker = tracker_port or target.transport.port
    started = start(shell, target, _state(device), tracker, port, device.folder, device_tracker_port)
    save_connection(target, device.words)
    if as_json:
        print_json({"key": target.transport.key, **asdict(started)})
    else:
        address = join_address(target.transport.host, tracker)
        print(f"server on {shell.where} serves key {target.transport.key} at tracker {address}")


@app.command("stop")
@_with_device
def stop_command(
    device: DeviceConnection,
) -> None:
    """Stop the server and close the tunnel. Example: tvmfbnet device stop --target rpi4 --ssh pi@raspberrypi."""
    from tvmfbnet.provisioning.remote_server import stop

    ran = stop(device.shell, _state(device), device.folder)
    print(f"server on {device.shell.where} {'stopped' if ran else 'was not running'}")


@app.command("logs")
@_with_device
def logs_command(
    device: DeviceConnection,
    lines: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="Lines from the end.")] = 50,
) -> None:
    """Show the server's log. Example: tvmfbnet device logs --target rpi4 --ssh pi@raspberrypi."""
    from tvmfbnet.progress import say
    from tvmfbnet.provisioning.remote_server import logs, silent_end

    print(logs(device.shell, device.folder, lines), end="", flush=True)
    ended = silent_end(device.shell, device.target, device.folder)
    if ended:
        say(f"note: {ended}")


def _state(device: DeviceConnection) -> Path:
    """The folder that records the processes started on a device."""
    from tvmfbnet.files import make_folder
    from tvmfbnet.tools import cache_folder

    name = "".join(letter if letter.isalnum() else "-" for letter in f"{device.target.name}-{device.shell.where}")
    return make_folder(cache_folder() / "started" / name)
