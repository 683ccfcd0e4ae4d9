"""Device programs in small: ELF files made by this machine's compilers, a folder that a build left, an NDK's layout."""

import shutil
import subprocess

import pytest

from tvmfbnet.provisioning.bundle import replace
from tvmfbnet.provisioning.programs import Programs

ARM = "aarch64-linux-gnu-gcc"


def make_library(path, page=16384, needs=(), compiler=ARM):
    """A shared library that needs others by name, its segments aligned to ``page`` bytes; skips without a compiler."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is missing; scripts/setup --emulation installs it")
    source = path.parent / f"{path.name}.c"
    source.write_text("int answer(void) { return 42; }\n")
    stubs = path.parent / f"{path.name}-stubs"
    stubs.mkdir()
    for name in needs:
        build(compiler, source, stubs / name, f"-Wl,-soname,{name}")
    build(
        compiler, source, path, f"-Wl,-z,max-page-size={page}", "-Wl,--no-as-needed", *(stubs / name for name in needs)
    )
    shutil.rmtree(stubs)
    source.unlink()
    return path


def build(compiler, source, path, *options):
    subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", source, "-o", path, *options], check=True)


def make_ndk(folder, revision="27.0.12077973", library=True):
    """The layout of an NDK; its toolchain is this machine's cross compiler, which aligns to 4 KiB unless told."""
    (folder / "build" / "cmake").mkdir(parents=True)
    (folder / "build" / "cmake" / "android.toolchain.cmake").write_text(
        "set(CMAKE_SYSTEM_NAME Linux)\nset(CMAKE_SYSTEM_PROCESSOR aarch64)\nset(ANDROID TRUE)\n"
        f"set(CMAKE_C_COMPILER {ARM})\nset(CMAKE_STRIP aarch64-linux-gnu-strip)\nset(ANDROID_NDK {folder})\n"
        "set(CMAKE_SHARED_LINKER_FLAGS_INIT -Wl,-z,max-page-size=4096)\n"
    )
    if revision:
        (folder / "source.properties").write_text(f"Pkg.Desc = Android NDK\nPkg.Revision = {revision}\n")
    sysroot = folder / "toolchains/llvm/prebuilt/linux-x86_64/sysroot/usr/lib/aarch64-linux-android"
    sysroot.mkdir(parents=True)
    if library:
        make_library(sysroot / "libc++_shared.so", needs=["libc.so"])
    return folder


def fake_programs(folder, **contents):
    """A folder as a build leaves it; the server is a shell script unless told otherwise."""
    result = folder.parent / f"{folder.name}-result"
    result.mkdir()
    for name, text in {
        "tvmfbnet-server": "#!/bin/sh\necho '{}'\n",
        "tvmfbnet-run": "#!/bin/sh\n",
        **{name.replace("_so", ".so"): text for name, text in contents.items()},
    }.items():
        (result / name).write_text(text)
    replace(folder, result, {"made": "for a test"})
    shutil.rmtree(result)
    return Programs(folder)
