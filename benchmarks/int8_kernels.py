"""What share of the CPU's peak of integer dot products each tuned int8 kernel reaches, on x86.

The peak is measured: a loop of the instruction that our kernels use, with sums in registers and nothing loaded. Times
of kernels are those of their fastest trials, from the tuning log, weights from beyond the nearest cache where few
pixels use them.

    tvmfbnet tune --target host --dtype int8 --space fbnet --arch fbnet_c --trials 600
    python benchmarks/int8_kernels.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from figures import report_figure

from tvmfbnet.autotune.database import existing_database
from tvmfbnet.autotune.database_folders import TRIALS
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.dot_products import DotProduct, dot_product_of
from tvmfbnet.errors import StorageError, UserError
from tvmfbnet.targets.definition import load_target, resolve

# Registers of sums: enough to hide latencies.
_SUMS = 8
_ROUNDS, _ITERATIONS = 50, 20000
_PROGRAM = """
#include <chrono>
#include <cstdio>
int main() {{
  double best = 1e9;
  for (int round = 0; round < {rounds}; ++round) {{
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < {iterations}; ++i) asm volatile({code} ::: {clobbers});
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds < best) best = seconds;
  }}
  std::printf("%.9f\\n", best);
}}
"""


def peak(dot: DotProduct) -> float:
    """Multiply-adds a second of a loop of an instruction, in billions; UserError where it is not one of x86."""
    if dot.name not in ("vpdpbusd", "vpmaddwd", "vpmaddwd512"):
        raise UserError("this CPU multiplies integers with no instruction of x86 that is known here")
    lanes = max(dot.intrinsics)
    register, instruction = "zmm" if lanes == 16 else "ymm", dot.name.removesuffix("512")
    lines = []
    for number in range(_SUMS):
        if instruction == "vpdpbusd":
            lines.append(f"vpdpbusd %%{register}14, %%{register}15, %%{register}{number}")
        else:  # adds up the products of a lane only
            lines.append(f"vpmaddwd %%{register}14, %%{register}15, %%{register}13")
            lines.append(f"vpaddd %%{register}13, %%{register}{number}, %%{register}{number}")
    code = " ".join(f'"{line}\\n\\t"' for line in lines)
    clobbers = ", ".join(f'"xmm{number}"' for number in range(16))
    text = _PROGRAM.format(rounds=_ROUNDS, iterations=_ITERATIONS, code=code, clobbers=clobbers)
    with TemporaryDirectory() as folder:
        source, program = Path(folder) / "peak.cc", Path(folder) / "peak"
        source.write_text(text)
        subprocess.run(["c++", "-O2", "-march=native", str(source), "-o", str(program)], check=True)
        seconds = float(subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout)
    return _ITERATIONS * _SUMS * lanes * dot.group / seconds / 1e9


def main() -> None:
    """Prints the peak and one row per kernel that multiplies, the best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuning-logs", type=Path, help="folder of all targets' logs; default: where tune writes them")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    target = resolve(load_target("host,dtype=int8"))
    dot = dot_product_of(target.for_tvm())
    database = existing_database(target, options.tuning_logs)
    if database is None:
        raise StorageError("nothing was tuned in int8 for host: tvmfbnet tune --target host --dtype int8 ...")
    highest, rows = peak(dot), []
    for trials in TrialLog(database.folder / TRIALS).templated.values():
        times = [trial.best_ms for trial in trials if trial.best_ms is not None]
        shape = trials[0].shape
        if not times or shape.kind not in ("conv", "depthwise", "matmul"):
            continue
        rate = shape.products / min(times) / 1e6
        name = f"{shape.kind} {shape.kernel}x{shape.kernel}, stride {shape.stride}, {shape.reduction} inputs"
        rows.append((rate / highest, f"{shape.height}x{shape.width}x{shape.channels}", name, round(rate, 1)))
    rows.sort(reverse=True)
    shares = [share for share, *_ in rows]
    report_figure("best kernel, share of the peak", 100 * shares[0], "%", better="higher")
    report_figure("all kernels, mean share of the peak", 100 * sum(shares) / len(shares), "%", better="higher")
    if options.as_json:
        print(json.dumps({"instruction": dot.name, "peak": highest, "kernels": rows}, indent=1))
        return
    print(f"{dot.name}: {highest:.0f} G multiply-adds a second")
    for share, output, name, rate in rows:
        print(f"{share:6.2f} of it, {rate:7.1f}: {output:14} {name}")


if __name__ == "__main__":
    with as_command():
        main()
