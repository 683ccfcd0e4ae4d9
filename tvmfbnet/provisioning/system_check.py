"""Whether a device's system can run what would be built for it: asked before anything is built, pushed or started."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from tvmfbnet.errors import DeviceError
from tvmfbnet.machine import parse_cores
from tvmfbnet.provisioning.shell_base import Shell
from tvmfbnet.provisioning.shells import LocalShell
from tvmfbnet.targets.definition import Target

# The program that starts programs there; without it the system says "not found" about a program that is there.
_LOADERS = {
    ("android", "aarch64"): "/system/bin/linker64",
    ("linux", "aarch64"): "/lib/ld-linux-aarch64.so.1",
    ("linux", "x86_64"): "/lib64/ld-linux-x86-64.so.2",
}
_PACKAGES_32 = ("armhf", "armel", "i386", "armeabi-v7a", "armeabi", "x86")

# One line an answer; what a system does not know is left empty. The class of the system's own programs (1: 32-bit) is
# for systems that have neither getconf nor dpkg.
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
    """What a device's system says about itself; empty where it does not say.

    Args:
        system: ``Linux``, ``Darwin``; Android is a Linux, too.
        machine: the kernel's, as ``uname -m`` names it.
        userland: the name of a 32-bit userland, or ``32-bit``; empty for one as wide as the kernel.
        cores: numbers of those that are there, such as ``0-3``.
        loaders: those of :data:`_LOADERS` that are there.
    """

    system: str = ""
    machine: str = ""
    userland: str = ""
    cores: str = ""
    loaders: frozenset[str] = frozenset()


def read_system(shell: Shell) -> DeviceSystem:
    """Asks a device; DeviceError when it is not reached."""
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
        shell: reaches the device.
        target: what would be built and run.
        cores: whether to look for the target's cores as well: they matter where the server is started.

    Raises:
        DeviceError: the device is not reached, or not fit: what it is, what is needed, what to do.
    """
    if isinstance(shell, LocalShell) and target.transport.emulator:
        return  # another machine's programs, run by the emulator
    found = read_system(shell)
    if not found.system:
        return  # a system that answers nothing is left to try
    problem = _problem(shell, target, found) or (_core_problem(target, found) if cores else "")
    if problem:
        raise DeviceError(f"{shell.where}: {problem}")


def _problem(shell: Shell, target: Target, found: DeviceSystem) -> str:
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(found.machine, found.machine)
    wanted = target.triple.split("-")[0] or platform.machine()
    if found.userland and "64" in machine:
        name = f" ({found.userland})" if found.userland != "32-bit" else ""
        return f"this system is 32-bit{name} under a 64-bit kernel; install a 64-bit system"
    if found.system != "Linux":
        return f"this system is {found.system}, and the device programs are for Linux and Android"
    if machine and machine != wanted:
        if isinstance(shell, LocalShell):
            return f"it is {machine}, and target {target.name} is for {wanted}: name the device with --ssh or --adb"
        advice = "install a 64-bit system" if machine.startswith("arm") else "take another target"
        return f"this system is {machine}, and target {target.name} is for {wanted}; {advice}"
    loader = _LOADERS.get(("android" if target.system == "android" else "linux", wanted), "")
    if loader and loader not in found.loaders:
        return (
            f"this system has no {loader}, so it cannot run what is built for target {target.name}: "
            f"{'it is no Android' if target.system == 'android' else 'it lacks the GNU C library'}"
        )
    return ""


def _core_problem(target: Target, found: DeviceSystem) -> str:
    if not (target.cores and found.cores) or set(parse_cores(target.cores)) <= set(parse_cores(found.cores)):
        return ""
    return f"target {target.name} asks for cores {target.cores}, and there are {found.cores}: correct its `cores`"
