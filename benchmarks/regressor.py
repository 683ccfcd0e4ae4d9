"""Scores the latency regressor on latency tables, beside plain xgboost on the same splits.

python benchmarks/regressor.py pixel3.csv raspi4.csv          # tables as `tvmfbnet latency export` writes them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from figures import report_figure
from latency_files import table_named

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.latency.cross_validation import SCHEMES, score
from tvmfbnet.space.registry import load_space


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", help="CSV files, or simulated processors: simulated:gflops=16,gbps=3")
    parser.add_argument("--space", default="fbnet", help="of simulated tables")
    parser.add_argument("--splits", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--with-skips", action="store_true", help="hold projecting skips out and score them, too")
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    rows, space = [], load_space(options.space)
    for table in options.tables:
        name, cells = Path(table).stem, table_named(table, space).cells
        latency_ms = [cell.latency_ms for cell in cells.values()]
        for scheme in SCHEMES:
            figures = score(list(cells), latency_ms, scheme, options.splits, options.seed, options.with_skips)
            rows.append({"table": name, "scheme": scheme, **figures})
            report_figure(f"{name}, {scheme}, MAPE", 100 * figures["mape"], "%", better="lower", exact=True)
            plain = 100 * figures["baseline_mape"]
            report_figure(f"{name}, {scheme}, MAPE of plain xgboost", plain, "%", better="lower", exact=True)
            if not options.as_json:
                print(
                    f"{name:20} {scheme:10} error {figures['mape']:6.2%} (plain xgboost "
                    f"{figures['baseline_mape']:6.2%}), 90 % intervals hold {figures['coverage_90']:.1%}, "
                    f"within 10 %: {figures['within_10']:.1%}, Spearman {figures['spearman']:.3f}",
                    flush=True,
                )
    if options.as_json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    with as_command():
        main()
