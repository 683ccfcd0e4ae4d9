"""A phone's insides on this machine: Android's file tree, shell and limits, where programs for 64-bit ARM run in qemu.

The shell is mksh and the tools are toybox, as on Android. Nothing but ``/data/local/tmp`` can be written, there is no
``/tmp``, and the network is the phone's own loopback. The kernel's namespaces do it, so root is needed; programs of the
phone run as Android's user ``shell`` without any privilege. The C library is glibc under bionic's file names, unless
``TVMFBNET_ANDROID_SYSTEM`` names an Android's ``system`` folder (``bin/linker64`` and ``lib64``).
"""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from android_init import NEWNET, check
from bundle_samples import ARM

from tvmfbnet.targets.android_libraries import android_libraries
from tvmfbnet.targets.toolchain import Compiler

ARM_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
GLIBC = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1")
# Paths whose content Android's security policy keeps from adb's shell.
DENIED = ("/proc/device-tree", "/sys/firmware", "/sys/class/thermal")
PROPERTIES = {"ro.product.model": "Stand-in", "ro.product.cpu.abi": "arm64-v8a", "ro.build.version.release": "14"}


def what_is_missing() -> str:
    """Why there can be no such phone here; empty where there can."""
    if os.geteuid() != 0:
        return "root is needed for a phone's namespaces"
    missing = [name for name in ("adb", "qemu-aarch64", "mksh", "toybox", "nsenter") if shutil.which(name) is None]
    if missing or not ARM_LIBRARIES.is_dir():
        return f"{', '.join(missing) or ARM_LIBRARIES} is missing; scripts/setup --emulation installs it"
    return ""


class AndroidRoot:
    """A running system; ends with :meth:`close`, and with this process.

    Args:
        folder: empty, for its file tree.
        data_mb: size of ``/data``.
        denied: paths that nobody may read there.
        page: bytes of a memory page.
    """

    def __init__(self, folder: Path, data_mb: int = 256, denied: tuple[str, ...] = DENIED, page: int = 4096) -> None:
        make_tree(folder)
        words = [sys.executable, Path(__file__).with_name("android_init.py"), folder, data_mb, *denied]
        self._init = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._init.stdout.readline().split()
        if len(said) != 1:
            raise RuntimeError(f"the phone's system did not start: {' '.join(said)}{self._init.stdout.read()}")
        self._pid = int(said[0])
        self.environment = {
            "PATH": "/system/bin",
            "HOME": "/",
            "TMPDIR": "/data/local/tmp",
            "ANDROID_ROOT": "/system",
            "ANDROID_DATA": "/data",
            "USER": "shell",
            "LD_LIBRARY_PATH": "/system/lib64",  # bionic's loader looks there by itself
            "QEMU_CPU": "cortex-a76",
            "QEMU_PAGESIZE": str(page),
        }

    def close(self) -> None:
        """Ends all of its processes."""
        self._init.stdin.close()
        self._init.wait(timeout=20)

    def run(self, script: str) -> subprocess.CompletedProcess:
        """What adb's shell does."""
        enter = [
            shutil.which("nsenter"),
            "-t",
            str(self._pid),
            "-U",
            "-m",
            "-p",
            "-n",
            "-r",
            "-w",
            "--preserve-credentials",
        ]
        return subprocess.run(
            [*enter, "--preserve-credentials", "/system/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environment,
        )

    def path(self, name: str) -> Path:
        """Where this machine sees a file of the phone."""
        return Path(f"/proc/{self._pid}/root{name}")

    def in_network(self, work):
        """The result of a function that runs in the phone's network; its sockets stay there."""
        result = []

        def run() -> None:
            with open(f"/proc/{self._pid}/ns/net") as network:  # noqa: PTH123
                check(ctypes.CDLL(None, use_errno=True).setns(network.fileno(), NEWNET), "enter the network")
            try:
                result.append(work())
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=run)  # the namespace is the thread's, which ends
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]


def make_tree(folder: Path) -> None:
    """Android's folders, the shell, the tools, and the C library."""
    names = ("system/bin", "system/lib64", "data", "dev", "proc", "sys", "lib/x86_64-linux-gnu", "lib64")
    for name in names:
        (folder / name).mkdir(parents=True)
    programs = folder / "system" / "bin"
    for name, program in (("sh", "mksh"), ("toybox", "toybox"), ("tr", "tr")):  # Android's toybox has tr, Debian's not
        shutil.copy2(os.path.realpath(shutil.which(program)), programs / name)
    answers = "".join(f"{name}) echo {value};;\n" for name, value in PROPERTIES.items())
    write_program(programs / "getprop", f'case "$1" in\n{answers}esac')
    write_program(programs / "uname", '[ "$1" = -m ] && echo aarch64 || exec toybox uname "$@"')
    for name in subprocess.run([programs / "toybox"], capture_output=True, text=True, check=True).stdout.split():
        if not (programs / name).exists() and name != "[":
            (programs / name).symlink_to("toybox")
    system = os.environ.get("TVMFBNET_ANDROID_SYSTEM", "")
    if system:
        shutil.copytree(Path(system) / "lib64", folder / "system" / "lib64", dirs_exist_ok=True)
        shutil.copy2(Path(system) / "bin" / "linker64", programs)
        return
    shutil.copy2(ARM_LIBRARIES / "ld-linux-aarch64.so.1", programs / "linker64")
    stand_ins = [Path(word) for word in android_libraries(Compiler(ARM)) if word.endswith(("/libc.so", "/libm.so"))]
    for file in (*(ARM_LIBRARIES / name for name in GLIBC), *stand_ins):
        shutil.copy2(file.resolve(), folder / "system" / "lib64" / file.name)


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/system/bin/sh\n{text}\n")
    path.chmod(0o755)
