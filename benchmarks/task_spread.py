"""Do archs differ on a data set? The spread of random archs of one latency, against the noise of one arch's trainings.

``--random`` archs within ``--band`` below a latency are trained once each, with one seed; one of them is trained
``--noise`` times, each time with another seed. Printed are both standard deviations of the top-1 accuracy, their ratio,
and how long a training takes. A search can only be judged on a data set where the ratio is well above 1.

Every training leaves its result in a file of its own: kill it at any time and start the same command again.

    python benchmarks/task_spread.py --task cluttered --threads 1
    python benchmarks/task_spread.py --space fbnet_mini --data fashion_mnist --latency-table table.csv
"""

from __future__ import annotations

import statistics
import time

from figures import report_figure
from search_tasks import keep_trainings
from searching import archs_between, options, space_and_table, trained, training_option

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.files import write_json
from tvmfbnet.search.quantities.latency import latency_costs
from tvmfbnet.space.arch import Arch


def main() -> None:
    parser = options(__doc__ or "", "task_spread")
    parser.add_argument("--share", type=float, default=0.4, help="latency, as a share of the way to the slowest net")
    parser.add_argument("--band", type=float, default=0.05, help="how far below it archs may lie, as a share of it")
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--noise", type=int, default=6)
    training_option(parser)
    parser.add_argument("--keep", action="store_true", help="add the trainings to the task's file")
    arguments = parser.parse_args()
    if arguments.keep and not arguments.task:
        parser.error("--keep needs a --task")
    space, table = space_and_table(arguments)
    costs = latency_costs(table, space)
    high_ms = costs.least + arguments.share * (costs.most - costs.least)
    archs = archs_between(space, costs, (1 - arguments.band) * high_ms, high_ms, arguments.random, seed=0)
    seconds, rows = [], []

    def accuracy(arch: Arch, seed: int) -> float:
        started = time.monotonic()
        record = trained(arch, space, arguments, seed)
        seconds.append(time.monotonic() - started)
        rows.append({"arch": record["arch"], "seed": seed, "test_accuracy": record["test_accuracy"]})
        print(f"{record['arch']} seed {seed}: {record['test_accuracy']:.2%} in {seconds[-1]:.0f} s", flush=True)
        return float(record["test_accuracy"])

    spread = [accuracy(arch, 0) for arch in archs]
    noise = [accuracy(archs[0], 1 + turn) for turn in range(arguments.noise)]
    if arguments.keep:
        keep_trainings(arguments.task, rows)
    deviations = {"spread": statistics.stdev(spread), "noise": statistics.stdev(noise)}
    # Without any noise the trainings were too short: all nets guess alike.
    ratio = deviations["spread"] / deviations["noise"] if deviations["noise"] else None
    if ratio is not None:
        report_figure("spread of archs over noise of trainings", ratio, "ratio", better="higher")
    shown = "unknown" if ratio is None else f"{ratio:.1f}"
    write_json(arguments.out / "result.json", {**deviations, "ratio": ratio, "accuracies": spread, "again": noise})
    print(
        f"{len(spread)} archs up to {high_ms:.4g} ms: {statistics.mean(spread):.2%} +- {deviations['spread']:.2%}; one "
        f"arch {len(noise)} times: {statistics.mean(noise):.2%} +- {deviations['noise']:.2%}; ratio {shown}; "
        f"median {statistics.median(seconds):.0f} s per training"
    )


if __name__ == "__main__":
    with as_command():
        main()
