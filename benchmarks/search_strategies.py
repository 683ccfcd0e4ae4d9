"""Regret of every strategy that trains whole archs, on tables of trained archs: no image is seen.

    python benchmarks/search_strategies.py --macro nas-bench-macro_cifar10.json \\
        --accel accel-nasbench_dataset_jsons.tar.gz

The strategies are those of the package, each given the same number of evaluations; one evaluation is one noisy
training. The regret of a search is what the net it puts first lacks to the best one within the bound, in points of
true accuracy (NAS-Bench-Macro: the mean of three trainings, of which an evaluation shows one at random). Every search
is a line of --records, so an interrupted run resumes. Intervals are the mean's 95 % by Student's t.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import report_figure

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.search.strategies import STRATEGY_NAMES, strategy_named
from tvmfbnet.search.strategies.evaluating import EvaluatingStrategy

from truth_tables import AccelTable, Truth, macro_truths  # isort: skip

MACRO_BOUNDS, ACCEL_WINDOW = (45e6, 65e6, 80e6), (380e6, 400e6)
RANK_LISTED = ("bayesian", "evolution", "controller", "random")
"""The strategies that can search a list of archs."""
Key = tuple[str, str, int, int]
"""Truth, strategy, evaluations, seed."""


def evaluating() -> list[str]:
    """The strategies that need no images."""
    return [name for name in STRATEGY_NAMES if isinstance(strategy_named(name), EvaluatingStrategy)]


def read_records(file: Path) -> dict[Key, float]:
    """The regrets of searches that were made before."""
    if not file.exists():
        return {}
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    return {(line["truth"], line["strategy"], line["evaluations"], line["seed"]): line["regret"] for line in lines}


def searches(truths: Sequence[Truth], options: argparse.Namespace) -> Iterator[tuple[Truth, Key]]:
    """All that are asked for, seed by seed, so that an unfinished run can be read as one of fewer seeds."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for budget in options.budgets:
            for truth in truths:
                for strategy in options.strategies:
                    if truth.listed is None or strategy in RANK_LISTED:
                        yield truth, (truth.name, strategy, budget, seed)


def run(truths: Sequence[Truth], options: argparse.Namespace) -> dict[Key, float]:
    """Makes the searches that were not made before."""
    records = read_records(options.records)
    with options.records.open("a") as stream:
        for truth, key in searches(truths, options):
            if key in records:
                continue
            started = time.process_time()
            ranked = strategy_named(key[1]).rank(truth.problem(key[2], key[3]))
            records[key] = truth.regret(ranked[0].arch)
            names = ("truth", "strategy", "evaluations", "seed")
            seconds = round(time.process_time() - started, 2)
            line = {**dict(zip(names, key, strict=True)), "regret": records[key], "cpu_seconds": seconds}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
    return records


def interval(regrets: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    from scipy.stats import t

    if len(regrets) < 2:
        return float(np.mean(regrets)), float("nan")
    half = t.ppf(0.975, len(regrets) - 1) * np.std(regrets, ddof=1) / len(regrets) ** 0.5
    return float(np.mean(regrets)), float(half)


def summary(truths: Sequence[Truth], options: argparse.Namespace, records: dict[Key, float]) -> list[dict[str, Any]]:
    """One row for each truth, strategy and number of evaluations."""
    rows = []
    for truth in truths:
        for strategy in options.strategies:
            for budget in options.budgets:
                wanted = range(options.first_seed, options.first_seed + options.seeds)
                keys = [(truth.name, strategy, budget, seed) for seed in wanted]
                regrets = [records[key] for key in keys if key in records]
                if regrets:
                    mean, half = interval(regrets)
                    row = {"truth": truth.name, "strategy": strategy, "evaluations": budget, "seeds": len(regrets)}
                    rows.append({**row, "regret": mean, "half_interval": half})
    return rows


def show(rows: Sequence[dict[str, object]], budgets: Sequence[int]) -> None:
    """The table in Markdown, one line for each truth and strategy."""
    print("| table | strategy | " + " | ".join(str(budget) for budget in budgets) + " |")
    print("|---" * (2 + len(budgets)) + "|")
    cells: dict[tuple[object, object], dict[object, str]] = {}
    for row in rows:
        text = f"{row['regret']:.3f} +- {row['half_interval']:.3f}"
        cells.setdefault((row["truth"], row["strategy"]), {})[row["evaluations"]] = text
    for (truth, strategy), texts in cells.items():
        print(f"| {truth} | `{strategy}` | " + " | ".join(texts.get(budget, "") for budget in budgets) + " |")


def draw(rows: Sequence[dict[str, object]], file: Path) -> None:
    """Regret against evaluations, a panel for each truth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["truth"] for row in rows))
    figure, panels = pyplot.subplots(1, len(names), figsize=(3.4 * len(names), 3.4), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        for strategy in dict.fromkeys(row["strategy"] for row in rows):
            own = [row for row in rows if (row["truth"], row["strategy"]) == (name, strategy)]
            x, y, half = (
                np.array([row[key] for row in own], float) for key in ("evaluations", "regret", "half_interval")
            )
            (line,) = panel.plot(x, y, marker="o", markersize=3, label=str(strategy))
            panel.fill_between(x, y - half, y + half, alpha=0.15, color=line.get_color(), linewidth=0)
        ticks = sorted({int(str(row["evaluations"])) for row in rows})
        panel.set_xscale("log")
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel("evaluations")
        panel.set_title(str(name).replace(", ", "\n"), fontsize=9)
    panels[0, 0].set_ylabel("regret, points of top-1 accuracy")
    panels[0, -1].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macro", type=Path, help="nas-bench-macro_cifar10.json")
    parser.add_argument("--accel", type=Path, help="accel-nasbench_dataset_jsons.tar.gz")
    parser.add_argument(
        "--surrogate", action="store_true", help="with --accel: all archs of the window, by a surrogate"
    )
    parser.add_argument("--strategies", nargs="+", default=evaluating(), choices=evaluating(), metavar="NAME")
    parser.add_argument("--budgets", nargs="+", type=int, default=[24, 48, 100, 200], metavar="EVALUATIONS")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--records", type=Path, default=Path("search_strategies.jsonl"))
    parser.add_argument("--json", type=Path, help="write the means here")
    parser.add_argument("--figure", type=Path, help="draw the curves here: PNG or SVG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truths = macro_truths(options.macro, MACRO_BOUNDS) if options.macro else []
    if options.accel:
        accel = AccelTable(options.accel)
        truths.append(accel.trained(*ACCEL_WINDOW))
    if options.accel and options.surrogate:
        tau, noise = accel.held_out()
        print(f"surrogate: nets that were not fitted: Kendall's tau {tau:.3f}, error {noise:.3f} points", flush=True)
        truths.append(accel.truth(*ACCEL_WINDOW, noise))
    if not truths:
        parser.error("give --macro, --accel, or both")
    rows = summary(truths, options, run(truths, options))
    show(rows, options.budgets)
    for row in rows:
        name = f"{row['truth']}, {row['strategy']}, {row['evaluations']} evaluations, regret in points"
        report_figure(name, row["regret"], "%", better="lower", exact=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    # Matrices are small here: one thread each is fastest, and several runs share a machine.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with as_command():
        main()
