"""What simulating a core costs: CPU time of a compiled net's run under the simulator, and under plain qemu.

Runs a package of `tvmfbnet compile` in the native runner, with few calls and with many, and takes the difference, so
that starting and loading do not count. CPU time of the processes, which other load on the machine changes little.

    python benchmarks/simulator_cost.py runs/package --target sim_a76 --calls 20
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import report_figure
from hot_loops import runner_command

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.emulator import SYSROOT, Emulation, emulator_command
from tvmfbnet.simulation.programs import build_simulator
from tvmfbnet.targets.definition import load_target
from tvmfbnet.targets.simulated import require_core


def cpu_seconds(command: list[str]) -> float:
    """CPU time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_per_call(emulator: list[str], runner: list[str], calls: int) -> float:
    once, often = (cpu_seconds([*emulator, *runner, "--warmup", str(count)]) for count in (1, 1 + calls))
    return (often - once) / calls


def compare(core: Core, runner: list[str], calls: int) -> None:
    with TemporaryDirectory() as folder:
        # With the clock preloaded: it brings the heap that sessions have.
        simulated = emulator_command(core, Emulation(build_simulator(), mailbox=Path(folder) / "mailbox"))
        plain = [f"qemu-{core.mca.triple}", "-cpu", core.emulated_cpu, "-L", SYSROOT]
        ratios = []
        for _ in range(3):
            seconds = [seconds_per_call(emulator, runner, calls) for emulator in (plain, simulated)]
            ratios.append(seconds[1] / seconds[0])
            print(
                f"qemu {seconds[0]:.3f} s of CPU a call, simulated {seconds[1]:.3f} s: {seconds[1] / seconds[0]:.2f}x"
            )
        report_figure(f"{core.name}, CPU time over qemu's", ratios, "ratio", better="lower")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder that `tvmfbnet compile` wrote")
    parser.add_argument("--target", required=True, help="a simulated target")
    parser.add_argument("--calls", type=int, default=20, help="calls of the net")
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    compare(require_core(target), runner_command(target, arguments.package), arguments.calls)
    return 0


if __name__ == "__main__":
    with as_command():
        sys.exit(main())
