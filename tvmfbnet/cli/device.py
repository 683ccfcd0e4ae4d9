"""``tvmfbnet device``: build what runs on a device, bring it there, start and stop it, read its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tvmfbnet.cli.output import JsonFlag, print_json

if TYPE_CHECKING:
    from tvmfbnet.devices.shells import Shell
    from tvmfbnet.devices.target import Target

app = typer.Typer(help="The device's side: build, push, start, stop, logs.", no_args_is_help=True)

TargetOption = Annotated[str, typer.Option(help="Target: a name or a .yaml file.")]
SshOption = Annotated[str, typer.Option(metavar="USER@HOST", help="A board reached over SSH.")]
SshOptions = Annotated[list[str] | None, typer.Option("--ssh-option", help="As for ssh -o, such as Port=2222.")]
AdbFlag = Annotated[bool, typer.Option("--adb", help="A phone reached over adb.")]
SerialOption = Annotated[str, typer.Option(help="The phone's serial number, when several are connected.")]
FolderOption = Annotated[str, typer.Option(help="Folder on the device; a sensible one if not given.")]


@app.command("build")
def build_command(
    target: TargetOption,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; in the cache if not given.")] = None,
    tvm_source: Annotated[Path | None, typer.Option(help="TVM's source tree, for Android.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build the server and the native runner for a target, with the toolchain that the target names.

    Example: tvmfbnet device build --target rpi4 --out device-rpi4
    """
    from tvmfbnet.devices.programs import build_programs
    from tvmfbnet.devices.target import load_target

    programs = build_programs(load_target(target), out, tvm_source)
    if as_json:
        print_json(
            {"folder": str(programs.folder), "files": [file.name for file in programs.files], "bytes": programs.bytes}
        )
    else:
        print(f"device programs for {target}: {programs.folder} ({programs.bytes / 1e6:.1f} MB)")


@app.command("push")
def push_command(
    target: TargetOption,
    ssh: SshOption = "",
    ssh_option: SshOptions = None,
    adb: AdbFlag = False,
    serial: SerialOption = "",
    folder: FolderOption = "",
    tvm_source: Annotated[Path | None, typer.Option(help="TVM's source tree, for Android.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring the device programs to a device (built first where they are not yet) and try them there.

    Example: tvmfbnet device push --target rpi4 --ssh pi@raspberrypi
    """
    from tvmfbnet.devices.programs import build_programs
    from tvmfbnet.devices.remote_server import device_facts_by_shell, push
    from tvmfbnet.devices.target import load_target

    loaded = load_target(target)
    shell = _shell(loaded, ssh, ssh_option, adb, serial)
    where = push(shell, build_programs(loaded, None, tvm_source), folder)
    facts = device_facts_by_shell(shell, loaded, where)
    if as_json:
        print_json({"where": shell.where, "folder": where, "device": facts})
    else:
        print(
            f"pushed to {shell.where}, folder {where}; runs there ({facts.get('model', '')} {facts.get('machine', '')})"
        )


@app.command("start")
def start_command(
    target: TargetOption,
    ssh: SshOption = "",
    ssh_option: SshOptions = None,
    adb: AdbFlag = False,
    serial: SerialOption = "",
    folder: FolderOption = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port on the device.")] = 9090,
    tracker_port: Annotated[
        int | None, typer.Option(help="The tracker's port here; the target's if not given.")
    ] = None,
    device_tracker_port: Annotated[int | None, typer.Option(help="Where the device sees it; the same.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start the pushed server and the tunnel to it; both go on until `device stop`. Nothing listens beyond loopback.

    Example: tvmfbnet device start --target rpi4 --ssh pi@raspberrypi
    """
    from dataclasses import asdict

    from tvmfbnet.devices.remote_server import start
    from tvmfbnet.devices.target import load_target

    loaded = load_target(target)
    shell = _shell(loaded, ssh, ssh_option, adb, serial)
    tracker = tracker_port or loaded.transport.port
    started = start(shell, loaded, _state(loaded, shell), tracker, port, folder, device_tracker_port)
    if as_json:
        print_json({"where": shell.where, "key": loaded.transport.key, **asdict(started)})
    else:
        print(f"server on {shell.where} serves key {loaded.transport.key} at tracker 127.0.0.1:{tracker}")


@app.command("stop")
def stop_command(
    target: TargetOption,
    ssh: SshOption = "",
    ssh_option: SshOptions = None,
    adb: AdbFlag = False,
    serial: SerialOption = "",
    folder: FolderOption = "",
) -> None:
    """Stop the server and close the tunnel. Example: tvmfbnet device stop --target rpi4 --ssh pi@raspberrypi."""
    from tvmfbnet.devices.remote_server import stop
    from tvmfbnet.devices.target import load_target

    loaded = load_target(target)
    shell = _shell(loaded, ssh, ssh_option, adb, serial)
    ran = stop(shell, _state(loaded, shell), folder)
    print(f"server on {shell.where} {'stopped' if ran else 'was not running'}")


@app.command("logs")
def logs_command(
    target: TargetOption,
    ssh: SshOption = "",
    ssh_option: SshOptions = None,
    adb: AdbFlag = False,
    serial: SerialOption = "",
    folder: FolderOption = "",
    lines: Annotated[int, typer.Option("-n", min=1, help="Lines from the end.")] = 50,
) -> None:
    """Show the server's log. Example: tvmfbnet device logs --target rpi4 --ssh pi@raspberrypi."""
    from tvmfbnet.devices.remote_server import logs
    from tvmfbnet.devices.target import load_target

    loaded = load_target(target)
    print(logs(_shell(loaded, ssh, ssh_option, adb, serial), folder, lines), end="")


def _shell(target: Target, ssh: str, ssh_options: list[str] | None, adb: bool, serial: str) -> Shell:
    """The shell that the options name: SSH, adb, or this machine when there are none."""
    from tvmfbnet.devices.shells import AdbShell, LocalShell, SshShell
    from tvmfbnet.devices.toolchain import cache_folder
    from tvmfbnet.errors import UserError

    if ssh and (adb or serial):
        raise UserError("give --ssh or --adb, not both")
    if ssh:
        return SshShell(ssh, ssh_options or [], cache_folder() / "tunnels")
    if adb or serial:
        return AdbShell(serial)
    return LocalShell(cache_folder() / "devices" / target.name)


def _state(target: Target, shell: Shell) -> Path:
    """The folder that remembers what was started on a device."""
    from tvmfbnet.devices.toolchain import cache_folder
    from tvmfbnet.files import make_folder

    name = "".join(letter if letter.isalnum() else "-" for letter in f"{target.name}-{shell.where}")
    return make_folder(cache_folder() / "started" / name)
