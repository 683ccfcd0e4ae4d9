"""Loops with a known answer on every simulated core: what its model says beside what public documents say.

    python benchmarks/core_throughput.py
    python benchmarks/core_throughput.py a76 my_core.yaml

Exit code 1 if one is off by more than ``--limit``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import report_figure

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.simulation.block_cycles import BlockCycles
from tvmfbnet.simulation.cores import list_cores, load_core
from tvmfbnet.simulation.microbenchmarks import compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cores", nargs="*", default=list_cores(), help="names or YAML files")
    parser.add_argument("--limit", type=float, default=0.10, help="largest share by which the model may be off")
    arguments = parser.parse_args()
    print(f"{'core':5} {'loop':30} {'model':>8} {'documented':>10} {'error':>7}")
    worst = 0.0
    with TemporaryDirectory() as folder:
        for name in arguments.cores:
            core, errors = load_core(name), []
            for row in compare(core, BlockCycles(core, Path(folder))):
                errors.append(abs(row.error))
                print(
                    f"{core.name:5} {row.name:30} {row.model_cycles:8.2f} "
                    f"{row.documented_cycles:10.2f} {row.error:+7.1%}"
                )
            worst = max(worst, *errors)
            report_figure(f"{core.name}, largest error of a loop", 100 * max(errors), "%", better="lower", exact=True)
    print(f"largest error {worst:.1%} (limit {arguments.limit:.0%}), cycles of one iteration")
    return int(worst > arguments.limit)


if __name__ == "__main__":
    with as_command():
        sys.exit(main())
