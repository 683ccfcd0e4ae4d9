"""The file system that an emulated program sees of a machine with one simulated core.

Runtimes choose their kernels by the core's part number in /proc/cpuinfo, and qemu shows this machine's. It looks every
absolute path up in its `-L` folder first: such a folder, with links to an aarch64 system and these files.
"""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.cores import Core

# Main ID register of the cores as the devices have them: variant, part, revision (Arm's technical reference manuals).
# Implementer 0x41 is Arm.
_PARTS = {
    "a53": (0x0, 0xD03, 4),
    "a55": (0x2, 0xD05, 0),
    "a72": (0x0, 0xD08, 3),
    "a75": (0x2, 0xD0A, 1),
    "a76": (0x4, 0xD0B, 1),
    "x1": (0x1, 0xD44, 0),
}
_BASE = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_NEWER = f"{_BASE} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


def machine_root(core: Core, system: Path, folder: Path) -> Path:
    """Makes the folder.

    Args:
        core: a shipped core.
        system: root of an aarch64 system, with `usr` and `lib`.
        folder: where to make it.

    Raises:
        UserError: the part number of the core is not listed here, or there is no such system.
    """
    if core.name not in _PARTS:
        raise UserError(f"no part number of core {core.name} is listed here: add it from Arm's reference manual")
    if not (system / "usr").is_dir():
        raise UserError(f"{system} is no root of an aarch64 system; scripts/arm_python DIR makes one")
    root = folder / "root"
    (root / "proc").mkdir(parents=True)
    (root / "proc" / "cpuinfo").write_text(cpuinfo(core))
    for entry in system.resolve().iterdir():
        (root / entry.name).symlink_to(entry)
    cpus = root / "sys" / "devices" / "system" / "cpu"
    topology = cpus / "cpu0" / "topology"
    topology.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text("0\n")
    for name in ("core_siblings_list", "thread_siblings_list"):
        (topology / name).write_text("0\n")
    (topology / "physical_package_id").write_text("0\n")
    frequency = cpus / "cpu0" / "cpufreq"
    frequency.mkdir()
    for name in ("cpuinfo_max_freq", "cpuinfo_min_freq"):
        (frequency / name).write_text(f"{round(core.frequency_ghz * 1e6)}\n")
    return root


def cpuinfo(core: Core) -> str:
    """What /proc/cpuinfo says of a machine with this core alone."""
    variant, part, revision = _PARTS[core.name]
    return (
        f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {_BASE if core.name in ('a53', 'a72') else _NEWER}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: {variant:#x}\nCPU part\t: {part:#x}\n"
        f"CPU revision\t: {revision}\n\n"
    )
