"""The emulator's command describes the core to the plugin, and says what cannot be passed on."""

import subprocess
from pathlib import Path

import pytest

from tvmfbnet.errors import UserError
from tvmfbnet.simulation.cores import Cache, Memory, Prefetch, list_cores, load_core
from tvmfbnet.simulation.emulator import Emulation, core_arguments, emulator_command, plugin_arguments
from tvmfbnet.simulation.programs import SimulatorPrograms, build_simulator, require_simulator_tools

PROGRAMS = SimulatorPrograms(Path("/p/plugin.so"), Path("/p/trace"), Path("/p/clock.so"))


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH that holds only what a test puts there, and a cache of its own."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)

    def add(name, text="#!/bin/sh\necho version 1\n"):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return add


def test_a_core_is_described_to_the_plugin():
    caches = [
        Cache(size_kb=64, ways=4, latency_cycles=4, bytes_per_cycle=32),
        Cache(size_kb=512, ways=8, latency_cycles=9.5, bytes_per_cycle=16),
    ]
    changes = {"caches": caches, "memory": Memory(latency_ns=110, gbps=9.25), "frequency_ghz": 2.4, "overlap": 0.8}
    core = load_core("a76").model_copy(update={**changes, "prefetch": Prefetch(streams=16, degree=8)})
    assert core_arguments(core) == [
        *("frequency_ghz=2.4", "overlap=0.8", "l1=64:4:64:4.0:32.0", "l2=512:8:64:9.5:16.0"),
        *("memory=110.0:9.25", "prefetch=16:8"),
    ]


@pytest.mark.parametrize("name", list_cores())
def test_the_simulator_takes_every_shipped_core(name):
    try:
        require_simulator_tools(("c++",))
    except UserError as error:
        pytest.skip(str(error))
    command = [build_simulator(("c++",)).cache_trace, *core_arguments(load_core(name))]
    done = subprocess.run(command, input="R 0\nR 8\n", capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[:2] == ["memory", "hit"], done.stderr


def test_the_command_preloads_the_clock_only_with_a_mailbox(path):
    path("qemu-aarch64")
    core = load_core("a55")
    plain = emulator_command(core, Emulation(PROGRAMS, sysroot=None))
    assert plain[:3] == ["qemu-aarch64", "-cpu", core.emulated_cpu] and "-L" not in plain
    assert not any("LD_PRELOAD" in argument for argument in plain)
    clocked = emulator_command(core, Emulation(PROGRAMS, mailbox=Path("/t/box"), summary=Path("/t/s.%p"), hottest=7))
    assert clocked[clocked.index("-L") + 1] == "/usr/aarch64-linux-gnu"
    assert {"LD_PRELOAD=/p/clock.so", "TVMFBNET_MAILBOX=/t/box"} <= set(clocked)
    assert clocked[-1].startswith("/p/plugin.so,") and clocked[-1].endswith(",mailbox=/t/box,summary=/t/s.%p,hottest=7")


def test_paths_that_cannot_be_passed_on_are_refused(path):
    path("qemu-aarch64")
    core = load_core("a76")
    with pytest.raises(UserError, match="path with a comma: /t/a,b; set another TMPDIR"):
        emulator_command(core, Emulation(PROGRAMS, mailbox=Path("/t/a,b")))
    with pytest.raises(UserError, match=r"longer than a socket's may be.*shorter TMPDIR"):
        plugin_arguments(core, Emulation(PROGRAMS, cycle_server=Path("/t") / ("x" * 120)))


def test_missing_programs_are_named_with_their_packages(path):
    with pytest.raises(UserError, match=r"qemu-aarch64, which runs programs on the simulated core a76.*qemu-user"):
        emulator_command(load_core("a76"), Emulation(PROGRAMS))
    with pytest.raises(UserError, match=r"cmake, which builds the simulator.*apt-get install cmake"):
        build_simulator()
    path("cmake")
    with pytest.raises(UserError, match="make, which builds the simulator"):
        build_simulator()
    path("ninja")
    with pytest.raises(UserError, match=r"c\+\+, which builds the simulator.*apt-get install g\+\+"):
        build_simulator()
    path("c++")
    with pytest.raises(UserError, match=r"aarch64-linux-gnu-g\+\+, which builds the simulator's clock"):
        build_simulator()


def test_a_build_that_fails_says_why_and_leaves_nothing(path, tmp_path):
    for name in ("ninja", "c++"):
        path(name)
    path("cmake", "#!/bin/sh\necho '-- all well'\necho 'clock.cc:1: error: no such thing'\nexit 1\n")
    with pytest.raises(UserError, match=r"^building the simulator failed: clock\.cc:1: error: no such thing$"):
        build_simulator(("c++",))
    assert not list((tmp_path / "cache").glob("tvmfbnet/simulator-*"))


def test_a_compiler_that_cannot_be_used_is_named(path):
    for name in ("ninja", "cmake"):
        path(name)
    path("c++", "#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match=r"c\+\+, which builds the simulator, cannot be used"):
        build_simulator(("c++",))
