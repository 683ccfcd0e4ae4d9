"""The device server's command line, the same for this machine, an emulator, a board and a phone."""

from __future__ import annotations

from tvmfbnet.targets.definition import Target
from tvmfbnet.tools import need_program


def require_emulator(target: Target) -> None:
    """Raises a UserError if the emulator of a local target is not installed; says what to install."""
    if target.transport.emulator:
        need_program(target.transport.emulator[0], f"runs the device programs of target {target.name} here")


def server_command(target: Target, program: str, tracker: str, key: str, here: bool = True) -> list[str]:
    """The command that starts a target's server; the caller adds the port and the termination options.

    Args:
        target: with threads, cores and emulator.
        program: path of the server on its machine.
        tracker: ``host:port`` of the tracker as seen from the server.
        key: to register under.
        here: whether it runs on this machine (under the target's emulator) instead of the device itself.
    """
    emulator = list(target.transport.emulator) if here else []
    if here:
        require_emulator(target)
    command = [*emulator, program, "--tracker", tracker, "--key", key, "--threads", str(target.threads)]
    if target.cores:
        command += ["--cores", target.cores]
    return command
