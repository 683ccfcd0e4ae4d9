"""What compiling the trials of a net takes in two dtypes, in processor time, which other jobs hardly change.

Compiling is most of what tuning on a host takes. Every kernel that a template schedules gets the same number of
schedules in each dtype, the first that tuning would try; each is compiled and linked as tuning does it, in this process
and on one core.

    python benchmarks/trial_builds.py --space fbnet --arch fbnet_c --schedules 2
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict

from figures import report_figure
from first_candidates import net_candidates

from tvmfbnet.autotune.builder_pool import build_candidate
from tvmfbnet.autotune.candidate import ScheduleCandidate
from tvmfbnet.cli.terminal import as_command
from tvmfbnet.compiler.library import linker
from tvmfbnet.targets.definition import ResolvedTarget


def processor_seconds() -> float:
    """Of this process and of the linkers that it started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def built_seconds(candidate: ScheduleCandidate, target: ResolvedTarget) -> float:
    """Processor time of one trial's build."""
    began = processor_seconds()
    build_candidate(candidate.mod_json, target.tvm_json(), linker(target, trial=True), target.timing.trial_rotate_mb)
    return processor_seconds() - began


def builds(name: str, space: str, arch: str, schedules: int) -> dict[str, list[float]]:
    """Seconds of each build of a target's trials, by kind and kernel size."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for shape, candidate, target in net_candidates(name, space, arch, schedules):
        seconds[f"{shape.kind} {shape.kernel}x{shape.kernel}"].append(built_seconds(candidate, target))
    return seconds


def main() -> None:
    """Prints seconds a trial by dtype and kind, and the ratio of the second dtype to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="host")
    parser.add_argument("--space", default="fbnet")
    parser.add_argument("--arch", default="fbnet_c")
    parser.add_argument("--dtypes", nargs=2, default=["float32", "int8"])
    parser.add_argument("--schedules", type=int, default=2, help="of each kernel")
    options = parser.parse_args()
    means = []
    for dtype in options.dtypes:
        seconds = builds(f"{options.target},dtype={dtype}", options.space, options.arch, options.schedules)
        values = [value for each in seconds.values() for value in each]
        means.append(sum(values) / len(values))
        report_figure(f"{options.arch}, {dtype}, CPU time of a trial's build", 1e3 * means[-1], "ms", better="lower")
        kinds = {kind: round(sum(each) / len(each), 3) for kind, each in sorted(seconds.items())}
        print(json.dumps({"dtype": dtype, "trials": len(values), "seconds": round(means[-1], 3), **kinds}), flush=True)
    one, other = options.dtypes
    print(f"a trial in {other} takes {means[1] / means[0]:.2f} times the processor time of one in {one}")


if __name__ == "__main__":
    with as_command():
        main()
