"""The Android NDK on this machine (its folder, revision and C++ library), and the libraries that Android provides.

Programs for a phone must ship the NDK's C++ library, because Android has none that programs may use, and must be
aligned for the 16 KiB memory pages of newer phones. NDKs before r27 have no option for that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import storage_errors

OLDEST_RELEASE = 27
PAGE_BYTES = 16384
# Linker option of every program and library for a phone; CMake's counterpart is device/cmake/android.cmake.
PAGE_OPTION = f"-Wl,-z,max-page-size={PAGE_BYTES}"
CXX_LIBRARY = "libc++_shared.so"
_ADVICE = f"unpack r{OLDEST_RELEASE} or later (developer.android.com/ndk) and set ANDROID_NDK_HOME to its folder"

# System libraries that programs may link on API level 24 (developer.android.com/ndk/guides/stable_apis).
SYSTEM_LIBRARIES = frozenset(
    f"lib{name}.so"
    for name in (
        "android",
        "c",
        "camera2ndk",
        "dl",
        "EGL",
        "GLESv1_CM",
        "GLESv2",
        "GLESv3",
        "jnigraphics",
        "log",
        "m",
        "mediandk",
        "OpenMAXAL",
        "OpenSLES",
        "stdc++",
        "vulkan",
        "z",
    )
)


@dataclass(frozen=True)
class Ndk:
    """A supported NDK: its folder, and its revision such as ``27.0.12077973``."""

    folder: Path
    revision: str

    @property
    def toolchain_file(self) -> Path:
        """CMake's toolchain file."""
        return self.folder / "build" / "cmake" / "android.toolchain.cmake"


def find_ndk(why: str) -> Ndk:
    """The NDK in ``$ANDROID_NDK_HOME``.

    Args:
        why: who needs it; begins the error message.

    Raises:
        UserError: missing, not an NDK, too old, or without its C++ library for 64-bit ARM; says what to do.
    """
    named = os.environ.get("ANDROID_NDK_HOME", "")
    if not named:
        raise UserError(f"{why} needs the Android NDK: {_ADVICE}")
    ndk = Ndk(Path(named).absolute(), "")
    if not ndk.toolchain_file.is_file():
        raise UserError(f"{why} needs the Android NDK: {_ADVICE}; {ndk.toolchain_file} does not exist")
    ndk = Ndk(ndk.folder, _revision(ndk.folder / "source.properties", why))
    release = int(ndk.revision.split(".")[0])
    if release < OLDEST_RELEASE:
        raise UserError(
            f"{why} needs the Android NDK r{OLDEST_RELEASE} or later, for phones with pages of 16 KiB, "
            f"and {ndk.folder} is r{release} ({ndk.revision}): {_ADVICE}"
        )
    if not list(ndk.folder.glob(f"toolchains/llvm/prebuilt/*/sysroot/usr/lib/aarch64-linux-android/{CXX_LIBRARY}")):
        raise UserError(f"{why} needs {CXX_LIBRARY} of the Android NDK, which {ndk.folder} lacks: unpack it again")
    return ndk


def _revision(properties: Path, why: str) -> str:
    if not properties.is_file():
        raise UserError(f"{why} needs the Android NDK: {_ADVICE}; {properties} does not exist, so its age is unknown")
    with storage_errors(properties, "read"):
        text = properties.read_text(encoding="utf-8", errors="replace")
    revision = re.search(r"^\s*Pkg\.Revision\s*=\s*([0-9]{1,4}(\.[0-9A-Za-z-]+)*)\s*$", text, re.MULTILINE)
    if revision is None:
        raise UserError(f"{why} needs the Android NDK: {_ADVICE}; {properties} names no Pkg.Revision")
    return revision.group(1)
