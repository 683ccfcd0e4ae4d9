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
from tvmfbnet.tools import cache_folder, failed_build, need_program, source_folder

PLUGIN, CLOCK, CACHE_TRACE = "libtvmfbnet_simulator.so", "libtvmfbnet_clock.so", "tvmfbnet-cache-trace"
CROSS_COMPILER = ("aarch64-linux-gnu-g++",)
_BUILD_SECONDS = 600


@dataclass(frozen=True)
class SimulatorPrograms:
    """The built simulator.

    Attributes:
        plugin: for qemu: counts, caches, time.
        cache_trace: runs a trace of accesses through the same model of caches.
        clock: is preloaded into an emulated program so that it reads that time.
    """

    plugin: Path
    cache_trace: Path
    clock: Path


def build_simulator(clock_compiler: Sequence[str] = CROSS_COMPILER) -> SimulatorPrograms:
    """Builds the simulator, or returns an existing build.

    Args:
        clock_compiler: C++ compiler of the emulated machine, with the options that choose the machine.

    Raises:
        UserError: a tool is missing (says what to install), or the build failed.
    """
    require_simulator_tools(clock_compiler)
    plugin = _built("plugin", [_host_compiler()])
    return SimulatorPrograms(plugin / PLUGIN, plugin / CACHE_TRACE, _built("clock", clock_compiler) / CLOCK)


def require_simulator_tools(clock_compiler: Sequence[str] = CROSS_COMPILER) -> None:
    """Raises a UserError if :func:`build_simulator` cannot build; names what to install."""
    need_program("cmake", "builds the simulator")
    if shutil.which("ninja") is None:
        need_program("make", "builds the simulator")
    _host_compiler()
    need_program(clock_compiler[0], "builds the simulator's clock")


def _host_compiler() -> str:
    return need_program(os.environ.get("CXX", "") or "c++", "builds the simulator")


def _built(part: str, compiler: Sequence[str]) -> Path:
    """The folder of one part, built if it was not built before."""
    sources = source_folder() / "device" / "simulator"
    identity = [_source_digest(sources), _version(compiler[0]), *compiler]
    name = f"simulator-{part}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]}"
    folder = cache_folder() / name
    with FileLock(make_folder(cache_folder() / "locks") / f"{name}.lock"):
        if not folder.is_dir():
            _build(part, sources, folder, compiler)
    return folder


def _source_digest(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(compiler: str) -> str:
    """What a compiler says about itself: another one may make other code of the same sources."""
    try:
        done = subprocess.run(
            [compiler, "--version"], capture_output=True, timeout=60, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"{compiler}, which builds the simulator, cannot be used: {error}") from error
    return done.stdout.decode(errors="replace")


def _build(part: str, sources: Path, folder: Path, compiler: Sequence[str]) -> None:
    """Builds one part into ``folder``, which appears only when all is there."""
    variables = {
        "TVMFBNET_SIMULATOR_PART": part,
        "CMAKE_CXX_COMPILER": compiler[0],
        "CMAKE_CXX_FLAGS": " ".join(compiler[1:]),
    }
    if part == "clock":
        # Always cross compiling for CMake: the emulated machine may differ from this one.
        variables |= {"CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SHARED_LINKER_FLAGS": "-s"}
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    with (
        storage_errors(folder, "write"),
        step(f"building the simulator's {part}"),
        scratch_folder(folder.parent) as temporary,
    ):
        build = str(temporary / "build")
        options = [f"-D{name}={value}" for name, value in variables.items()]
        _cmake("-S", str(sources), "-B", build, "-G", generator, *options)
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
        raise failed_build("the simulator", done.stdout.splitlines())
