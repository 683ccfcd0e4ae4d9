"""Builds the device programs (RPC server and native runner) with CMake, for the system of a target.

The result is one folder: two programs, TVM's runtime libraries, the plugin for OpenCL targets, and the NDK's C++
library for phones. It is cached, and rebuilt when the sources, TVM's version or the toolchain change.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.preflight import require_writable_folder
from tvmfbnet.progress import Reporter, say, step
from tvmfbnet.provisioning.bundle import check_programs, is_complete, read_manifest, refuse_foreign, replace
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.targets.android import find_ndk
from tvmfbnet.targets.definition import Target
from tvmfbnet.targets.toolchain import find_compiler
from tvmfbnet.targets.tvm_runtime import fetch_wheels, host_wheels, installed_versions
from tvmfbnet.tools import cache_folder, failed_build, need_program, source_folder

SERVER, RUNNER = "tvmfbnet-server", "tvmfbnet-run"
_BUILD_SECONDS = 3600
# Progress lines of Ninja and make: "[3/17] Building CXX object ...", "[ 12%] Building ...".
_COUNT = re.compile(r"\[ *([0-9]+(?:/[0-9]+|%))\] *(.*)")
_TOLD_LINES = 400


@dataclass(frozen=True)
class Programs:
    """Device programs in a folder of this machine."""

    folder: Path

    @property
    def server(self) -> Path:
        """The RPC server."""
        return self.folder / SERVER

    @property
    def runner(self) -> Path:
        """The native runner."""
        return self.folder / RUNNER

    @property
    def files(self) -> list[Path]:
        """All files that the device needs, in a fixed order: exactly those of the build.

        Raises:
            StorageError: the folder holds no finished build.
        """
        manifest = read_manifest(self.folder)
        if manifest is None or not manifest.finished:
            raise StorageError(f"{self.folder} holds no finished build of the device programs")
        return [self.folder / name for name in sorted(manifest.files)]

    @property
    def bytes(self) -> int:
        """Total size."""
        return sum(path.stat().st_size for path in self.files)


def _source_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    device = folder / "device"
    # The simulator runs here, not on the device: it has a build of its own.
    files = [path for path in device.rglob("*") if path.is_file() and device / "simulator" not in path.parents]
    for path in [folder / "CMakeLists.txt", *sorted(files)]:
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def build_programs(target: Target, out: Path | None = None, tvm_source: Path | None = None) -> Programs:
    """Builds the programs for a target, or returns an existing build.

    Args:
        target: determines system and toolchain.
        out: folder of the result; in the cache by default.
        tvm_source: TVM's source tree, for Android.

    Raises:
        UserError: a tool is missing (says what to install), the build failed, the result would not run on the device,
            or the system has no programs.
        StorageError: ``out`` contains files that no build put there; nothing in it is touched.
    """
    generator = require_tools(target, tvm_source, out)
    settings = _settings(target, tvm_source)
    identity = {"sources": _source_hash(source_folder()), "settings": settings, **installed_versions()}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = out if out is not None else cache_folder() / f"programs-{target.system}-{name}"
    with FileLock(_lock_path(folder)):
        if not is_complete(folder, identity):
            refuse_foreign(folder, ours=out is None)
            _build(target, settings, generator, folder, identity, ours=out is None)
        else:
            say(f"device programs of target {target.name}: built before, in {folder}")
    return Programs(folder)


def require_tools(target: Target, tvm_source: Path | None = None, out: Path | None = None) -> str:
    """Checks quickly whether :func:`build_programs` can build; returns the CMake generator. Downloads nothing.

    Raises:
        UserError: a tool is missing, or the system has no programs.
        StorageError: ``out`` is not writable, or contains other files.
    """
    if target.system == "apple":
        raise UserError(
            f"target {target.name} needs no device programs: on the Mac, `pip install "
            f"{' '.join(f'{name}=={version}' for name, version in installed_versions().items())}` and run the server "
            "that docs/how-to/macs.md shows"
        )
    if out is not None:
        require_writable_folder(out)
        if read_manifest(out) is None:
            refuse_foreign(out)
    need_program("cmake", "builds the device programs")
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    if generator != "Ninja":
        need_program("make", "builds the device programs")
    if target.device == "opencl":
        _opencl_headers()
    if target.system == "android":
        _android_settings(target, tvm_source)
    elif target.system == "aarch64-linux":
        for language in ("c", "c++"):
            find_compiler(target, "c" if language == "c" else "c++")
    return generator


def _lock_path(folder: Path) -> Path:
    """The lock of a result folder, kept in the cache: beside a user's folder it could clash with their files."""
    name = hashlib.sha256(str(folder.absolute().resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return make_folder(cache_folder() / "locks") / f"programs-{name}.lock"


def _settings(target: Target, tvm_source: Path | None) -> dict[str, str]:
    """CMake's variables for a target."""
    settings = {"CMAKE_BUILD_TYPE": "Release", "TVMFBNET_TVM_VERSION": installed_versions()["apache-tvm"]}
    if target.device == "opencl":
        settings |= {"TVMFBNET_OPENCL": "ON", "TVMFBNET_OPENCL_INCLUDE": str(_opencl_headers())}
    if target.system == "android":
        return settings | _android_settings(target, tvm_source)
    if target.system == "host":
        return settings | {"TVM_WHEELS_DIR": str(host_wheels())}
    settings |= {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64"}
    for language, variable in (("c", "C"), ("c++", "CXX")):
        compiler = find_compiler(target, "c" if language == "c" else "c++")
        settings[f"CMAKE_{variable}_COMPILER"] = compiler.command
        settings[f"CMAKE_{variable}_FLAGS"] = " ".join(compiler.options)
    # Stripped by the linker: `cmake --install --strip` would run this machine's strip on zig's output.
    settings |= {"CMAKE_EXE_LINKER_FLAGS": "-s", "CMAKE_SHARED_LINKER_FLAGS": "-s"}
    return settings | {"TVM_WHEELS_DIR": str(fetch_wheels("aarch64-linux"))}


def _android_settings(target: Target, tvm_source: Path | None) -> dict[str, str]:
    ndk = find_ndk(f"building the device programs of target {target.name}")
    version = installed_versions()["apache-tvm"].split(".post")[0]
    if tvm_source is None or not (tvm_source / "include" / "tvm").is_dir():
        raise UserError(
            f"target {target.name} builds TVM's runtime from source: git clone --recursive --branch v{version} "
            f"https://github.com/apache/tvm and give its folder with --tvm-source"
            f"{'' if tvm_source is None else f'; {tvm_source} is not it'}"
        )
    android = {"ANDROID_ABI": "arm64-v8a", "ANDROID_PLATFORM": "android-24", "ANDROID_STL": "c++_shared"}
    # The NDK revision is part of the build's identity.
    android |= {"ANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES": "ON", "TVMFBNET_NDK_REVISION": ndk.revision}
    return {"CMAKE_TOOLCHAIN_FILE": str(ndk.toolchain_file), "TVM_SOURCE_DIR": str(tvm_source.resolve()), **android}


def _opencl_headers() -> Path:
    """An include folder with only CL/: /usr/include has headers of the wrong machine for a cross compiler."""
    for headers in (Path("/usr/include/CL"), Path("/usr/local/include/CL")):
        if (headers / "cl.h").is_file():
            link = make_folder(cache_folder() / "opencl-headers") / "CL"
            if not link.exists():
                with storage_errors(link, "write"):
                    link.unlink(missing_ok=True)
                    link.symlink_to(headers)
            return link.parent
    raise UserError("OpenCL's headers (CL/cl.h) were not found; install them (Debian: apt-get install opencl-headers)")


def _build(
    target: Target, settings: dict[str, str], generator: str, folder: Path, identity: dict[str, Any], ours: bool
) -> None:
    say(f"building the device programs of target {target.name} (once; this can take minutes)")
    with storage_errors(folder, "write"), scratch_folder() as temporary:
        build, result = str(temporary / "build"), temporary / "result"
        variables = [f"-D{name}={value}" for name, value in settings.items()]
        with step("device programs: configuring") as now:
            _cmake(["-S", str(source_folder()), "-B", build, "-G", generator, *variables], now)
        with step("device programs: compiling and linking") as now:
            _cmake(["--build", build, "--parallel", "1"], now)
        strip = [] if "CMAKE_EXE_LINKER_FLAGS" in settings else ["--strip"]
        with step("device programs: checking") as now:
            _cmake(["--install", build, "--prefix", str(result), *strip], now)
            check_programs(result, target.system)
            replace(folder, result, identity, ours)
        say(f"device programs: built, {Programs(folder).bytes / 1e6:.1f} MB in {folder}")


def _cmake(arguments: list[str], now: Reporter) -> None:
    """Runs CMake and shows its progress."""
    said, told = deque[str](maxlen=_TOLD_LINES), deque([""], maxlen=1)
    now.look = lambda: told[-1]
    timed_out = threading.Event()
    with subprocess.Popen(
        ["cmake", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:

        def end() -> None:
            timed_out.set()
            process.kill()

        alarm = threading.Timer(_BUILD_SECONDS, end)
        alarm.start()
        try:
            for line in process.stdout or ():
                said.append(line.strip())
                count = _COUNT.match(said[-1])
                if count is not None:
                    told.append(f"{count[1].replace('/', ' of ')}: {Path(count[2].rpartition(' ')[2]).name}")
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            alarm.cancel()
    if timed_out.is_set():
        raise UserError(f"building the device programs took longer than {_BUILD_SECONDS} s")
    if code != 0:
        raise failed_build("the device programs", said)
