"""Checks whether a device's system can run a target's programs, before anything is built, pushed or started."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from tvmfbnet.errors import DeviceError
from tvmfbnet.machine import parse_cores
from tvmfbnet.provisioning.shell_base import Shell
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.targets.definition import Target

# The dynamic loader; without it a system reports "not found" for an existing program.
_LOADERS = {
    ("android", "aarch64"): "/system/bin/linker64",
    ("linux", "aarch64"): "/lib/ld-linux-aarch64.so.1",
    ("linux", "x86_64"): "/lib64/ld-linux-x86-64.so.2",
}
_PACKAGES_32 = ("armhf", "armel", "i386", "armeabi-v7a", "armeabi", "x86")

# One line per answer; unknown facts are empty. The ELF class of the system's own programs (1: 32-bit) is for systems
# that have neither getconf nor dpkg.
_PROBE = "\n".join(
    (
        'echo "system=$(uname -s)"',
        'echo "machine=$(uname -m)"',
        'echo "bits=$(getconf LONG_BIT 2>/dev/null)"',
        'echo "packages=$( { dpkg --print-architecture || getprop ro.product.cpu.abi; } 2>/dev/null)"',
        'echo "class=$(od -An -tu1 -j4 -N1 /proc/self/exe 2>/dev/null)"',
        'echo "cores=$(cat /sys/devices/system/cpu/present 2>/dev/null)"',
        *(f"if [ -e {loader} ]; then echo loader={loader}; fi" for loader in _LOADERS.values()),
    )
)


@dataclass(frozen=True)
class DeviceSystem:
    """Facts about a device's system; empty where unknown.

    Args:
        system: ``Linux`` (also on Android) or ``Darwin``.
        machine: of the kernel, from ``uname -m``.
        userland: the name of a 32-bit userland, or ``32-bit``; empty for one as wide as the kernel.
        cores: present cores, such as ``0-3``.
        loaders: present loaders of :data:`_LOADERS`.
    """

    system: str = ""
    machine: str = ""
    userland: str = ""
    cores: str = ""
    loaders: frozenset[str] = frozenset()


def read_system(shell: Shell) -> DeviceSystem:
    """Asks a device about its system; DeviceError if it cannot be reached."""
    pairs = [line.strip().partition("=") for line in shell.run(_PROBE).splitlines()]
    loaders = frozenset(value for name, _, value in pairs if name == "loader")
    said = {name: value.strip() for name, _, value in pairs}
    packages = said.get("packages", "")
    silent = not said.get("bits") and not packages
    narrow = said.get("bits") == "32" or packages in _PACKAGES_32 or (silent and said.get("class") == "1")
    return DeviceSystem(
        said.get("system", ""),
        said.get("machine", ""),
        (packages or "32-bit") if narrow else "",
        said.get("cores", ""),
        loaders,
    )


def check_system(shell: Shell, target: Target, cores: bool = False) -> None:
    """Refuses a device whose system cannot run the target's programs.

    Args:
        shell: of the device.
        target: whose programs would run.
        cores: whether to check the target's cores, too, as is needed before the server starts.

    Raises:
        DeviceError: the device cannot be reached, or does not fit: what it is, what is needed, what to do.
    """
    if isinstance(shell, LocalShell) and target.transport.emulator:
        return  # the emulator runs another machine's programs
    actual = read_system(shell)
    if not actual.system:
        return  # a system that reports nothing gets a try
    problem = _problem(shell, target, actual) or (_core_problem(target, actual) if cores else "")
    if problem:
        raise DeviceError(f"{shell.where}: {problem}")


def _problem(shell: Shell, target: Target, actual: DeviceSystem) -> str:
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(actual.machine, actual.machine)
    wanted = target.triple.split("-")[0] or platform.machine()
    if actual.userland and "64" in machine:
        name = f" ({actual.userland})" if actual.userland != "32-bit" else ""
        return f"this system is 32-bit{name} under a 64-bit kernel; install a 64-bit system"
    if actual.system != "Linux":
        return f"this system is {actual.system}, and the device programs are for Linux and Android"
    if machine and machine != wanted:
        if isinstance(shell, LocalShell):
            return f"it is {machine}, and target {target.name} is for {wanted}: name the device with --ssh or --adb"
        advice = "install a 64-bit system" if machine.startswith("arm") else "take another target"
        return f"this system is {machine}, and target {target.name} is for {wanted}; {advice}"
    loader = _LOADERS.get(("android" if target.system == "android" else "linux", wanted), "")
    if loader and loader not in actual.loaders:
        return (
            f"this system has no {loader}, so it cannot run what is built for target {target.name}: "
            f"{'it is no Android' if target.system == 'android' else 'it lacks the GNU C library'}"
        )
    return ""


def _core_problem(target: Target, actual: DeviceSystem) -> str:
    if not (target.cores and actual.cores) or set(parse_cores(target.cores)) <= set(parse_cores(actual.cores)):
        return ""
    return f"target {target.name} asks for cores {target.cores}, and there are {actual.cores}: correct its `cores`"
