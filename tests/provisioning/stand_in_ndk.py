"""What stands in for the NDK: this machine's cross compiler and glibc, laid out as an NDK, under Android's file names.

It takes the whole Android path through CMake but for two things: TVM's runtime comes from its wheels for Linux, and
glibc travels beside the programs. It lies in the cache, so that the programs are built once.
"""

import hashlib

from android_root import ARM_LIBRARIES, GLIBC
from bundle_samples import make_library

from tvmfbnet.targets.tvm_runtime import fetch_wheels
from tvmfbnet.tools import cache_folder

_TOOLCHAIN = """set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(ANDROID TRUE)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_STRIP aarch64-linux-gnu-strip)
set(CMAKE_CXX_FLAGS_RELEASE -O0)
set(CMAKE_EXE_LINKER_FLAGS_INIT -Wl,--dynamic-linker=/system/bin/linker64)
set(ANDROID_NDK ${CMAKE_CURRENT_LIST_DIR}/../..)
set(CMAKE_PROJECT_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/glibc.cmake)
"""


def stand_in_ndk():
    """Its folder, and what stands in for TVM's source tree."""
    files = {name: (ARM_LIBRARIES / name).resolve() for name in (*GLIBC, "ld-linux-aarch64.so.1")}
    bring = "".join(f"install(FILES {file} DESTINATION . RENAME {name})\n" for name, file in files.items())
    bring += f'set(TVM_WHEELS_DIR {fetch_wheels("aarch64-linux")} CACHE PATH "" FORCE)\n'
    name = hashlib.sha256((_TOOLCHAIN + bring).encode()).hexdigest()[:12]
    folder = cache_folder() / f"stand-in-ndk-{name}"
    if not (folder / "source.properties").is_file():
        cmake = folder / "build" / "cmake"
        libraries = folder / "toolchains/llvm/prebuilt/linux-x86_64/sysroot/usr/lib/aarch64-linux-android"
        for part in (cmake, libraries, folder / "tvm" / "include" / "tvm"):
            part.mkdir(parents=True, exist_ok=True)
        (cmake / "android.toolchain.cmake").write_text(_TOOLCHAIN)
        (cmake / "glibc.cmake").write_text(bring)
        make_library(libraries / "libc++_shared.so", needs=["libc.so"])
        (folder / "source.properties").write_text("Pkg.Revision = 27.0.0\n")
    return folder, folder / "tvm"
