"""The device server's command line, the same for this machine, an emulator, a board and a phone."""

from __future__ import annotations

from tvmfbnet.targets.definition import Target
from tvmfbnet.targets.toolchain import need_program


def require_emulator(target: Target) -> None:
    """UserError where the emulator of a target that runs here is not installed; says what to install."""
    if target.transport.emulator:
        need_program(target.transport.emulator[0], f"runs the device programs of target {target.name} here")


def server_command(target: Target, program: str, tracker: str, key: str, here: bool = True) -> list[str]:
    """The words that start a target's server; the caller adds the port and how it ends.

    Args:
        target: threads, cores and emulator are its.
        program: path of the server where it runs.
        tracker: ``host:port`` of the tracker as the server reaches it.
        key: what it registers under.
        here: whether it runs on this machine (under the target's emulator) and not on the device itself.
    """
    emulator = list(target.transport.emulator) if here else []
    if here:
        require_emulator(target)
    command = [*emulator, program, "--tracker", tracker, "--key", key, "--threads", str(target.threads)]
    if target.cores:
        command += ["--cores", target.cores]
    return command
