"""Starts simulated devices on this machine: our device server under qemu, whose clock is a core's model.

Beside each server runs the cycle server, which tells the emulator what blocks of instructions take. Everything else of
a device is as for any local target: a tracker on loopback, and clients that know nothing of it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.provisioning.server_command import server_command
from tvmfbnet.provisioning.service import MAX_SESSION_SECONDS, Service
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.scratch import new_folder
from tvmfbnet.simulation.emulator import Emulation, emulator_command
from tvmfbnet.simulation.programs import CROSS_COMPILER, build_simulator
from tvmfbnet.simulation.tools import find_llvm, missing_tools
from tvmfbnet.targets.definition import Target
from tvmfbnet.targets.simulated import model_of, require_core
from tvmfbnet.targets.toolchain import find_compiler
from tvmfbnet.tools import cache_folder, need_program

# Longer than any folder in which the cycle server's socket may lie.
_FOLDER_LENGTH = 128


class SimulatedDevice(Service):
    """A device server under the emulator, with the cycle server that it asks.

    Args:
        program: the command of the device server.
        cycles: the cycle server, ready.
        folder: of the socket and the mailbox; removed at the end.
    """

    def __init__(self, program: Sequence[str], cycles: Service, folder: Path) -> None:
        self._cycles, self._folder = cycles, folder
        super().__init__(["server"], program=program)

    def stop(self) -> None:
        """Kills both processes and everything they started."""
        super().stop()
        self._cycles.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def start_simulated(target: Target, endpoint: Endpoint) -> Service:
    """Starts a simulated device, registered with the endpoint's tracker under its key.

    Raises:
        UserError: a tool is missing (says what to install), or a program cannot be built.
    """
    core = require_core(target)
    program, simulator, llvm = build_programs(target).server, build_simulator(), find_llvm()
    folder = new_folder()
    socket = folder / "cycles"
    cycles = _cycle_server(target, socket)
    try:
        emulation = Emulation(simulator, mailbox=folder / "mailbox", cycle_server=socket)
        command = [
            *emulator_command(core, emulation),
            *server_command(target, str(program), endpoint.address, endpoint.key, here=False),
            *("--simulates", model_of(core, llvm.version)),
            *("--folder", _of_one_length(folder)),
            *("--port", "0", "--until-stdin-closes", "--max-session", str(MAX_SESSION_SECONDS)),
        ]
        cycles.wait_until_ready()
        return SimulatedDevice(command, cycles, folder)
    except BaseException:
        cycles.stop()
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _of_one_length(folder: Path) -> str:
    """The path of sessions' folders, as long as any other's.

    A session keeps it in its heap, before the tensors that it times: their places, and with those which cache lines
    they share, must not depend on ``TMPDIR`` or on the digits of a process's number.
    """
    return str(folder).ljust(_FOLDER_LENGTH, "/")


def _cycle_server(target: Target, socket: Path) -> Service:
    name = "" if target.simulation is None else target.simulation.core
    folder = make_folder(cache_folder() / "block-cycles")
    arguments = ["--core", name, "--folder", str(folder), "--socket", str(socket)]
    return Service(["cycle server"], program=[sys.executable, "-m", "tvmfbnet.simulation.cycle_server", *arguments])


def missing_for_simulation(target: Target) -> list[str]:
    """What a simulated target needs and this machine lacks, one line each: which program, for what, from where."""
    builder = "ninja" if shutil.which("ninja") else "make"
    needed: list[Callable[[], object]] = [
        lambda: need_program("cmake", "builds the simulator"),
        lambda: need_program(builder, "builds the simulator"),
        lambda: need_program(os.environ.get("CXX", "") or "c++", "builds the simulator"),
        lambda: find_compiler(target).command,
        lambda: need_program(CROSS_COMPILER[0], f"target {target.name} links with"),
    ]
    problems = missing_tools(require_core(target).mca.triple)
    for check in needed:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def require_simulation(target: Target) -> None:
    """Refuses a simulated target where a tool is missing; :class:`UserError` names all of them in one line."""
    problems = missing_for_simulation(target)
    if problems:
        count = f"{len(problems)} problems: " if len(problems) > 1 else ""
        raise UserError(f"{count}{'; '.join(problems)}")
