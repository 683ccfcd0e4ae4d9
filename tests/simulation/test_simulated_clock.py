"""Programs under the emulator read the clock of the simulated core: the same in every run, and what the model says.

On both machines that qemu emulates here: nothing in the simulator depends on the instructions.
"""

import json
import math
import os
import shutil
import socketserver
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tvmfbnet.simulation.cores import Cache, Core, Memory, Prefetch, load_core
from tvmfbnet.simulation.emulator import SYSROOT, Emulation, emulator_command
from tvmfbnet.simulation.programs import CROSS_COMPILER, build_simulator
from tvmfbnet.tools import source_folder

pytestmark = pytest.mark.emulated

HERE = Path(__file__).parent
# One nanosecond is one cycle, and memory is as fast as the first cache.
FREE = Memory(latency_ns=4, gbps=10_000)
CACHES = [
    Cache(size_kb=4, ways=4, latency_cycles=4, bytes_per_cycle=1024),
    Cache(size_kb=64, ways=8, latency_cycles=14, bytes_per_cycle=1024),
]
EVERY = ["start", "loop", "long", "near", "far", "written", "heap"]


@dataclass(frozen=True)
class Machine:
    """An emulated machine: the probe for it, and how to run it."""

    probe: Path
    emulation: Emulation
    core: Core

    def run(self, *words: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, *emulator_command(self.core, self.emulation), str(self.probe), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment})

    def times(self, *words: str) -> list[int]:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return [int(line) for line in done.stdout.split()]

    def with_memory(self, memory: Memory, prefetch: Prefetch | None = None) -> "Machine":
        changes = {"memory": memory} | ({} if prefetch is None else {"prefetch": prefetch})
        return replace(self, core=self.core.model_copy(update=changes))

    def given(self, **changes: object) -> "Machine":
        return replace(self, emulation=replace(self.emulation, **changes))


@pytest.fixture(scope="module", params=["aarch64", "x86_64"])
def built(request, tmp_path_factory):
    compiler = CROSS_COMPILER if request.param == "aarch64" else ("g++",)
    missing = [name for name in (*compiler, f"qemu-{request.param}", "cmake") if shutil.which(name) is None]
    if missing or (request.param == "x86_64" and os.uname().machine != "x86_64"):
        pytest.skip(f"{', '.join(missing) or 'an x86 compiler'} is missing; scripts/setup --emulation installs it")
    probe = tmp_path_factory.mktemp("probe") / "probe"
    headers = source_folder() / "device" / "simulator"
    command = [*compiler, "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{headers}", "-o", str(probe)]
    subprocess.run([*command, str(HERE / "clock_probe.cc")], check=True)
    core = load_core("a76")
    mca = core.mca.model_copy(update={"triple": request.param})
    cpu = "cortex-a72" if request.param == "aarch64" else "qemu64"
    changes = {"emulated_cpu": cpu, "mca": mca, "caches": CACHES, "frequency_ghz": 1.0, "overlap": 0.5}
    core = core.model_copy(update={**changes, "memory": FREE, "prefetch": Prefetch(streams=0, degree=0)})
    sysroot = SYSROOT if request.param == "aarch64" else None
    return Machine(probe, Emulation(build_simulator(compiler), sysroot=sysroot), core)


@pytest.fixture
def machine(built, tmp_path):
    return built.given(mailbox=tmp_path / "mailbox")


@contextmanager
def cycle_server(path: Path, cycles_of: Callable[[bytes], float]) -> Iterator[list[bytes]]:
    """A cycle server that answers by a function; yields the blocks that it was asked."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while header := self.rfile.read(4):
                blocks = [
                    self.rfile.read(*struct.unpack("<I", self.rfile.read(4)))
                    for _ in range(*struct.unpack("<I", header))
                ]
                asked.extend(blocks)
                self.wfile.write(struct.pack(f"<{len(blocks)}d", *map(cycles_of, blocks)))

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield asked
        server.shutdown()


def test_a_loop_takes_its_instructions(machine):
    nothing, loop = machine.times("nothing", "loop")
    assert 0 < nothing < 2000
    assert abs(loop - nothing - 2_000_000) < 20


def test_sessions_begin_at_second_one_and_the_parents_clock_is_real(machine):
    second, is_realtime_virtual, real, asleep, again, _ = machine.times("start", "real", "sleep", "start")
    assert (second, is_realtime_virtual, again) == (1, 1, 1)
    assert real >= 100_000_000
    assert asleep < 100_000


def test_two_runs_are_bit_equal_whatever_else_differs(machine, tmp_path):
    """Address randomisation, lengths of environment and paths, process ids, other processes."""
    first = machine.run(*EVERY)
    assert first.returncode == 0, first.stderr
    other = machine.given(mailbox=tmp_path / ("mailbox" + "-of-another-length" * 3))
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        second = other.run(*EVERY, A_LONG_VARIABLE="x" * 1234)
        fixed = ("setarch", os.uname().machine, "-R") if shutil.which("setarch") else ()
        third = machine.run(*EVERY, prefix=fixed)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert first.stdout == second.stdout == third.stdout
    assert len(first.stdout.split()) == len(EVERY) + 2


def test_how_a_message_arrived_makes_no_difference_to_what_is_timed_after_it(machine):
    slow = machine.with_memory(Memory(latency_ns=104, gbps=6.4), Prefetch(streams=4, degree=4))
    assert len(set(slow.times(*[f"pieces{count}" for count in (1, 2, 5, 9)]))) == 1


def test_each_thread_has_its_own_time(machine):
    assert all(abs(time - 2_000_000) < 2000 for time in machine.times("threads"))


def test_the_heap_of_a_session_keeps_what_is_written_and_aligns_large_blocks_alike(machine):
    assert machine.times("heap") == [64, 0]


class TestCaches:
    """A load of a 1 MiB buffer misses both caches: 100 cycles more than the first level's 4, half of them hidden."""

    SLOW = Memory(latency_ns=104, gbps=1000)
    LOADS = 2 * 16384

    def test_what_the_first_level_holds_costs_nothing(self, machine):
        (near,) = machine.with_memory(self.SLOW).times("near")
        assert near == pytest.approx(100 * 32 * 4 + 32 * 50, rel=0.1)

    def test_latency(self, machine):
        (far,) = machine.with_memory(self.SLOW).times("far")
        assert far == pytest.approx(self.LOADS * (4 + 50), rel=0.01)

    def test_bandwidth_takes_the_place_of_what_is_shorter(self, machine):
        (far,) = machine.with_memory(Memory(latency_ns=104, gbps=0.64)).times("far")
        assert far == pytest.approx(self.LOADS * 100, rel=0.01)

    def test_a_prefetched_line_costs_its_transfer(self, machine):
        ahead = Prefetch(streams=4, degree=4)
        (far,) = machine.with_memory(self.SLOW, ahead).times("far")
        # The first line of each page is missed.
        assert far == pytest.approx(self.LOADS * (4 + 50 / 64), rel=0.02)
        (far,) = machine.with_memory(Memory(latency_ns=104, gbps=6.4), ahead).times("far")
        assert far == pytest.approx(self.LOADS * 10, rel=0.02)

    def test_stores_cost_two_transfers_and_no_latency(self, machine):
        (written,) = machine.with_memory(Memory(latency_ns=104, gbps=6.4)).times("written")
        assert written == pytest.approx(self.LOADS * 20, rel=0.04)


class TestCycleServer:
    def test_code_that_the_emulator_cut_is_one_block(self, machine, tmp_path):
        with cycle_server(tmp_path / "s", lambda block: 1000 * (len(block) > 2000)) as asked:
            (time,) = machine.given(cycle_server=tmp_path / "s").times("long")
        assert 1_000_000 <= time < 1_000_200  # and a few misses
        # The loop, and its first execution with what leads to it.
        assert 1 <= len([block for block in asked if len(block) > 2000]) <= 2

    def test_a_block_is_asked_once(self, machine, tmp_path):
        with cycle_server(tmp_path / "s", lambda block: len(block) * 0.25) as asked:
            machine.given(cycle_server=tmp_path / "s").times("far")
        assert len(asked) > 10 and len(set(asked)) == len(asked)

    def test_a_block_without_an_answer_takes_a_cycle_per_instruction_and_is_counted(self, machine, tmp_path):
        with cycle_server(tmp_path / "s", lambda block: math.nan):
            summary = tmp_path / "summary.%p"
            nothing, loop = machine.given(cycle_server=tmp_path / "s", summary=summary).times("nothing", "loop")
        assert abs(loop - nothing - 2_000_000) < 20
        assert max(read["unmodelled_executions"] for read in summaries(tmp_path)) > 1_000_000

    def test_no_server_ends_the_session_with_a_line(self, machine, tmp_path):
        done = machine.given(cycle_server=tmp_path / "none").run("loop")
        assert done.returncode != 0
        assert f"simulator: the cycle server at {tmp_path / 'none'} does not answer" in done.stderr
        assert "simulated clock: the simulator cannot tell the time" in done.stderr

    def test_a_server_that_breaks_off_ends_the_session_with_a_line(self, machine, tmp_path):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.rfile.read(4)

        with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            done = machine.given(cycle_server=tmp_path / "s").run("loop")
            server.shutdown()
        assert done.returncode != 0 and "does not answer" in done.stderr


def summaries(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("summary.*"))]


def test_the_summary_names_the_hottest_loop_without_any_clock(built, tmp_path):
    done = built.given(summary=tmp_path / "summary.%p", hottest=3).run("loop")
    assert done.returncode == 0, done.stderr
    (child,) = [summary for summary in summaries(tmp_path) if summary["instructions"] > 2_000_000]
    hottest = child["hottest"][0]
    assert hottest["instructions"] == 2 and hottest["executions"] in (999_999, 1_000_000)
    assert hottest["compute_cycles"] == 2 * hottest["executions"] <= hottest["cycles"]
    assert len(child["hottest"]) == 3 and child["cycles"] >= hottest["cycles"]
    # Its code, where the file has it.
    code = bytes.fromhex(hottest["code"])
    assert hottest["file"] == str(built.probe)
    assert built.probe.read_bytes()[hottest["offset"] :][: len(code)] == code


def test_a_program_can_mark_the_part_to_summarise(built, tmp_path):
    assert built.given(summary=tmp_path / "summary.%p").run("marked").returncode == 0
    counts = [summary["instructions"] for summary in summaries(tmp_path)]
    assert any(2_000_000 <= count < 2_010_000 for count in counts)


def test_a_summary_that_cannot_be_written_is_said(built, tmp_path):
    assert "cannot write the summary" in built.given(summary=tmp_path / "none" / "summary").run("loop").stderr


def test_a_clock_without_its_plugin_or_mailbox_ends_the_program_with_a_line(machine):
    command = emulator_command(machine.core, machine.emulation)
    plain = [*command[: command.index("-plugin")], str(machine.probe), "loop"]
    (machine.emulation.mailbox).write_bytes(bytes(4096))
    done = subprocess.run(plain, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "the emulator runs without its plugin" in done.stderr
    (machine.emulation.mailbox).unlink()
    done = subprocess.run(plain, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "TVMFBNET_MAILBOX names no file" in done.stderr


@pytest.mark.parametrize(
    ("argument", "message"), [("speed=1", "'speed' is no setting"), ("mailbox=/nowhere/box", "cannot open the mailbox")]
)
def test_a_plugin_that_cannot_start_says_why(machine, argument, message):
    command = emulator_command(machine.core, machine.emulation)
    command[-1] += f",{argument}"
    done = subprocess.run([*command, str(machine.probe)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and f"simulator: {message}" in done.stderr


def test_a_loop_takes_the_same_time_in_every_session(machine):
    assert len(set(machine.times(*["loop"] * 4))) == 1
