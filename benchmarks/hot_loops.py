"""Where a compiled net's time goes on a simulated core: the blocks of instructions that take the most, with their code.

Runs a package of `tvmfbnet compile` in the native runner under the simulator, and prints what the net's own library
cost: cycles by the core's scheduling model, stalls by where loads hit, what transfers took beyond that, then the
hottest blocks. For those who write kernels: cycles per execution next to multiply-adds tell how far from the core's
throughput a loop is. Code of the runner and of TVM's runtime is left out.

    tvmfbnet compile k3_e1,skip/k5_e3,k3_e1,skip/k3_e6,k3_e3 --space fbnet_mini --target sim_a76 --out runs/package
    python benchmarks/hot_loops.py runs/package --target sim_a76 --calls 20 --top 3
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.errors import DeviceError
from tvmfbnet.provisioning.programs import build_programs
from tvmfbnet.simulation.cores import Core
from tvmfbnet.simulation.cycle_server import serving
from tvmfbnet.simulation.disassembly import disassemble
from tvmfbnet.simulation.emulator import Emulation, emulator_command
from tvmfbnet.simulation.programs import build_simulator
from tvmfbnet.simulation.tools import find_llvm
from tvmfbnet.targets.definition import Target, load_target
from tvmfbnet.targets.simulated import require_core
from tvmfbnet.tools import cache_folder

MULTIPLY_ADD = re.compile(r"(fmla|fmls|fmadd|sdot|udot|mla|smlal2?)\b|vfn?m(add|sub)\w+\b")


# More blocks than a process executes.
EVERY_BLOCK = 1_000_000


def summarise(core: Core, program: list[str]) -> dict[str, Any]:
    """Runs a program on a core and returns its summary, with every block."""
    with TemporaryDirectory() as folder:
        socket, summary = Path(folder) / "cycles", Path(folder) / "summary"
        emulation = Emulation(build_simulator(), cycle_server=socket, summary=summary, hottest=EVERY_BLOCK)
        with serving(core, cache_folder() / "block-cycles", socket):
            done = subprocess.run([*emulator_command(core, emulation), *program], capture_output=True, text=True)
        if done.returncode != 0:
            raise DeviceError(f"the program failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return dict(json.loads(summary.read_text()))


def runner_command(target: Target, package: Path) -> list[str]:
    """The command of our native runner for a package and one repeat; ``--warmup`` adds calls of its net."""
    repeat = ["--repeats", "1", "--min-repeat-ms", "1"]
    return [str(build_programs(target).runner), "--package", str(package), *repeat]


def costs(entry: dict[str, Any], of: float) -> str:
    """One line: share, cycles, and what they are made of."""
    parts = [
        f"{100 * entry['cycles'] / of:5.1f} %",
        f"{entry['cycles']:.4g} cycles",
        f"compute {entry['compute_cycles']:.4g}",
    ]
    levels = [f"l{number}" for number in range(2, len(entry["stall_cycles"]) + 1)] + ["memory"]
    parts += [f"stalls {name} {stall:.3g}" for name, stall in zip(levels, entry["stall_cycles"], strict=True) if stall]
    parts += [f"transfers {entry['bandwidth_cycles']:.3g}"] if entry["bandwidth_cycles"] else []
    return ", ".join(parts)


def total(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """The costs of several blocks together."""
    summed = {name: sum(block[name] for block in blocks) for name in ("cycles", "compute_cycles", "bandwidth_cycles")}
    return summed | {"stall_cycles": [sum(stalls) for stalls in zip(*(b["stall_cycles"] for b in blocks), strict=True)]}


def blocks_of(summary: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The blocks of the code in a folder, the hottest first.

    Raises:
        DeviceError: none was executed.
    """
    blocks = [block for block in summary["hottest"] if folder.resolve() in Path(block.get("file", "/")).parents]
    if not blocks:
        raise DeviceError(f"nothing of {folder} was executed")
    return joined(blocks)


def joined(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks with those that always followed them, as the simulator asked for their cycles: the hottest first.

    The first part of such a chain has the cycles of all; a part that was never entered from elsewhere has none.
    """
    behind = {(block["address"], block["executions"]): block for block in blocks if not block["compute_cycles"]}
    chains = []
    for block in blocks:
        if not block["compute_cycles"]:
            continue
        chain = [block]
        while (follower := behind.pop((_end(chain[-1]), block["executions"]), None)) is not None:
            chain.append(follower)
        code = "".join(part["code"] for part in chain)
        chains.append(block | total(chain) | {"code": code, "parts": len(chain)})
    return sorted([*chains, *behind.values()], key=lambda block: -block["cycles"])


def _end(block: dict[str, Any]) -> int:
    return int(block["address"]) + len(block["code"]) // 2


def show(core: Core, summary: dict[str, Any], folder: Path, top: int, what: str = "the net") -> None:
    """Prints what the code of a folder cost, and its hottest blocks."""
    blocks = blocks_of(summary, folder)
    of = total(blocks)["cycles"]
    print(f"{what} on {core.name}, {100 * of / summary['cycles']:.0f} % of the process's cycles:")
    print(costs(total(blocks), of))
    blocks = blocks[:top]
    codes = disassemble(find_llvm(), core.mca.triple, [bytes.fromhex(block["code"]) for block in blocks])
    for block, code in zip(blocks, codes, strict=True):
        counts = Counter(line.split()[0] for line in code.instructions)
        products = sum(bool(MULTIPLY_ADD.match(line)) for line in code.instructions)
        each = block["cycles"] / block["executions"]
        place = f"{Path(block.get('file', 'no file')).name}+{block.get('offset', 0):#x}"
        print(f"\n{costs(block, of)}")
        print(f"  {place}, {block['executions']} executions, {each:.2f} cycles each")
        print(
            f"  {products} multiply-adds, {products / each if each else 0:.2f} per cycle; {dict(counts.most_common(6))}"
        )
        for line in code.instructions:
            print(f"    {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="folder that `tvmfbnet compile` wrote")
    parser.add_argument("--target", required=True, help="a simulated target")
    parser.add_argument("--calls", type=int, default=10, help="calls of the net")
    parser.add_argument("--top", type=int, default=10, help="number of blocks")
    arguments = parser.parse_args()
    target = load_target(arguments.target)
    core = require_core(target)
    runner = [*runner_command(target, arguments.package), "--warmup", str(arguments.calls)]
    show(core, summarise(core, runner), arguments.package, arguments.top)
    return 0


if __name__ == "__main__":
    with as_command():
        sys.exit(main())
