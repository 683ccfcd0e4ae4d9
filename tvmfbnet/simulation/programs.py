"""Builds the simulator with CMake: qemu's plugin for this machine, and the clock for the programs that it emulates.

Needs neither TVM nor qemu's headers. Built on first use, and again when the sources or a compiler change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tvmfbnet.errors import UserError
from tvmfbnet.files import make_folder, storage_errors
from tvmfbnet.progress import step
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.tools import cache_folder, need_program, source_folder

PLUGIN, CLOCK, CACHE_TRACE = "libtvmfbnet_simulator.so", "libtvmfbnet_clock.so", "tvmfbnet-cache-trace"
CROSS_COMPILER = ("aarch64-linux-gnu-g++",)
_BUILD_SECONDS = 600


@dataclass(frozen=True)
class SimulatorPrograms:
    """The built simulator, in a folder of this machine."""

    folder: Path

    @property
    def plugin(self) -> Path:
        """Qemu's plugin: counts, caches, time."""
        return self.folder / PLUGIN

    @property
    def clock(self) -> Path:
        """What is preloaded into an emulated program so that it reads that time."""
        return self.folder / CLOCK

    @property
    def cache_trace(self) -> Path:
        """Runs a trace of accesses through the cache model."""
        return self.folder / CACHE_TRACE


def build_simulator(clock_compiler: Sequence[str] = CROSS_COMPILER) -> SimulatorPrograms:
    """Builds the simulator, or returns an existing build.

    Args:
        clock_compiler: C++ compiler of the emulated machine, with the options that choose the machine.

    Raises:
        UserError: a tool is missing (says what to install), or the build failed.
    """
    require_simulator_tools(clock_compiler)
    compiler = _host_compiler()
    sources = source_folder() / "device" / "simulator"
    identity = [_source_digest(sources), _version(compiler), _version(clock_compiler[0]), *clock_compiler]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    folder = cache_folder() / f"simulator-{name}"
    with FileLock(make_folder(cache_folder() / "locks") / f"simulator-{name}.lock"):
        if not folder.is_dir():
            _build(sources, folder, compiler, clock_compiler)
    return SimulatorPrograms(folder)


def require_simulator_tools(clock_compiler: Sequence[str] = CROSS_COMPILER) -> None:
    """Raises a UserError if :func:`build_simulator` cannot build; names what to install."""
    need_program("cmake", "builds the simulator")
    if shutil.which("ninja") is None:
        need_program("make", "builds the simulator")
    _host_compiler()
    need_program(clock_compiler[0], "builds the simulator's clock")


def _host_compiler() -> str:
    return need_program(os.environ.get("CXX", "") or "c++", "builds the simulator")


def _source_digest(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(compiler: str) -> str:
    """What a compiler says about itself: another one may make other code of the same sources."""
    command = [compiler, "--version"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=True, stdin=subprocess.DEVNULL).stdout.decode()
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{compiler}, which builds the simulator, cannot be used: {error}") from error


def _build(sources: Path, folder: Path, compiler: str, clock_compiler: Sequence[str]) -> None:
    """Builds both parts into ``folder``, which appears only when all is there."""
    clock = {
        # Always cross compiling for CMake: the emulated machine may differ from this one.
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_CXX_COMPILER": clock_compiler[0],
        "CMAKE_CXX_FLAGS": " ".join(clock_compiler[1:]),
        "CMAKE_SHARED_LINKER_FLAGS": "-s",
    }
    parts = {"plugin": {"CMAKE_CXX_COMPILER": compiler}, "clock": clock}
    with storage_errors(folder, "write"), step("building the simulator"), scratch_folder(folder.parent) as temporary:
        for part, variables in parts.items():
            build = str(temporary / part)
            generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
            options = [f"-D{name}={value}" for name, value in variables.items()]
            _cmake("-S", str(sources), "-B", build, "-G", generator, f"-DTVMFBNET_SIMULATOR_PART={part}", *options)
            _cmake("--build", build, "--parallel", "1")
            _cmake("--install", build, "--prefix", str(temporary / "result"))
        (temporary / "result").rename(folder)


def _cmake(*arguments: str) -> None:
    try:
        done = subprocess.run(
            ["cmake", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"building the simulator took longer than {_BUILD_SECONDS} s") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no message"]
        raise UserError(f"building the simulator failed: {' | '.join(errors[:3])}")
