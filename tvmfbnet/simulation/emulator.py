"""The command line under which a program runs on a simulated core: qemu, our plugin, and what makes runs bit-equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.programs import SimulatorPrograms
from tvmfbnet.tools import need_program

# Where Debian's cross compiler keeps aarch64's C library.
SYSROOT = "/usr/aarch64-linux-gnu"
# Larger buffers get pages of their own, so that they begin at the same place in a page in every run. glibc would raise
# the threshold as it goes.
_TUNABLES = "glibc.malloc.mmap_threshold=16384"
_LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True)
class Emulation:
    """What a simulated core needs beside itself.

    Args:
        programs: the built simulator.
        mailbox: file through which the plugin tells emulated programs the time; created if it does not exist. One
            emulator at a time. Without one, only the summary tells the time.
        cycle_server: Unix socket that tells the cycles of blocks; without one, each instruction takes one cycle.
        summary: JSON file that each emulated process writes when it ends (``%p`` becomes its number): where time went.
        hottest: number of blocks in the summary.
        sysroot: folder with the emulated machine's C library; None for this machine's.
    """

    programs: SimulatorPrograms
    mailbox: Path | None = None
    cycle_server: Path | None = None
    summary: Path | None = None
    hottest: int = 40
    sysroot: str | None = SYSROOT


def emulator_command(core: Core, emulation: Emulation) -> list[str]:
    """The command before the program's own: ``[*emulator_command(core, emulation), program, *arguments]``.

    Raises:
        UserError: qemu is not installed, or a path cannot be passed to it.
    """
    emulator = f"qemu-{core.mca.triple}"
    need_program(emulator, f"runs programs on the simulated core {core.name}")
    # Random numbers of the C library decide nothing that we time, but should not differ between runs either.
    command = [emulator, "-cpu", core.emulated_cpu, "-seed", "1"]
    if emulation.sysroot is not None:
        command += ["-L", emulation.sysroot]
    command += ["-E", f"GLIBC_TUNABLES={_TUNABLES}"]
    if emulation.mailbox is not None:
        command += ["-E", f"LD_PRELOAD={emulation.programs.clock}", "-E", f"TVMFBNET_MAILBOX={emulation.mailbox}"]
    plugin = ",".join([_plain(emulation.programs.plugin), *plugin_arguments(core, emulation)])
    return [*command, "-plugin", plugin]


def plugin_arguments(core: Core, emulation: Emulation) -> list[str]:
    """The plugin's arguments, ``name=value`` each; ``device/simulator/settings.h`` says what they mean."""
    arguments = core_arguments(core)
    if emulation.cycle_server is not None:
        path = _plain(emulation.cycle_server)
        if len(path.encode()) > _LONGEST_SOCKET_PATH:
            raise UserError(
                f"the path of the cycle server is longer than a socket's may be: {path}; set a shorter TMPDIR"
            )
        arguments.append(f"server={path}")
    if emulation.mailbox is not None:
        arguments.append(f"mailbox={_plain(emulation.mailbox)}")
    if emulation.summary is not None:
        arguments += [f"summary={_plain(emulation.summary)}", f"hottest={emulation.hottest}"]
    return arguments


def core_arguments(core: Core) -> list[str]:
    """The part of the plugin's arguments that describes the core."""
    arguments = [f"frequency_ghz={core.frequency_ghz!r}", f"overlap={core.overlap!r}"]
    for level, cache in enumerate(core.caches, start=1):
        values = (cache.size_kb, cache.ways, cache.line_bytes, cache.latency_cycles, cache.bytes_per_cycle)
        arguments.append(f"l{level}=" + ":".join(map(repr, values)))
    arguments.append(f"memory={core.memory.latency_ns!r}:{core.memory.gbps!r}")
    return [*arguments, f"prefetch={core.prefetch.streams}:{core.prefetch.degree}"]


def _plain(path: Path) -> str:
    """A path as qemu takes it among comma-separated arguments."""
    if "," in str(path):
        raise UserError(
            f"the emulator cannot be given a path with a comma: {path}; set another TMPDIR or XDG_CACHE_HOME"
        )
    return str(path)
