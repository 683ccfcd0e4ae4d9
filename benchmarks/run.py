"""Runs the benchmarks, keeps what they measured in a file, compares two such files, and makes the page of all.

    python benchmarks/run.py list
    python benchmarks/run.py quick --json quick.json [--only peak_memory regressor] [--again] [--repeats 3] [--page]
    python benchmarks/run.py full --json full.json --inputs tables [--work FOLDER] [--limit-minutes 600]
    python benchmarks/run.py compare before.json after.json [--as-json]
    python benchmarks/run.py page [FILES] [--out docs/results/benchmarks.md]

Each benchmark runs in a process of its own, pinned to as many cores as it needs, and the file is written after each:
started again, the same command runs what is missing or failed (``--again``: all that is chosen). Exit code 1 where one
failed. ``compare`` gives a verdict per figure, and exit code 3 where one got worse.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from suite.compare import Row, compared, differences
from suite.forms import Benchmark, Form
from suite.page import cell, page
from suite.records import FormName, Outcome, Record, continued, read_record, write_record
from suite.registry import BENCHMARKS, HELPERS
from suite.runner import ROOT, Settings, run_benchmark

from tvmfbnet.cli.terminal import as_command
from tvmfbnet.errors import UserError
from tvmfbnet.files import folder_lock, make_folder, write_text
from tvmfbnet.progress import say

RECORDED = ROOT / "benchmarks" / "recorded"
PAGE = ROOT / "docs" / "results" / "benchmarks.md"


def chosen(names: list[str] | None, benchmarks: tuple[Benchmark, ...] = BENCHMARKS) -> list[Benchmark]:
    """The benchmarks of these names, or all; UserError names one that is unknown."""
    by_name = {benchmark.name: benchmark for benchmark in benchmarks}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise UserError(f"unknown benchmark {unknown[0]!r}: known are {', '.join(by_name)}")
    return [by_name[name] for name in dict.fromkeys(names or by_name)]


def show_list() -> None:
    """Every script of the folder, with its forms or why it has none."""
    for benchmark in BENCHMARKS:
        print(f"{benchmark.name} (docs/results/{benchmark.page})")
        for name in ("quick", "full"):
            form = benchmark.form(name)
            told = "; ".join(form.options) or "without options" if isinstance(form, Form) else f"none: {form}"
            print(f"  {name}: {told}")
    for name, reason in HELPERS.items():
        print(f"{name}: no benchmark: {reason}")


def run_all(
    form_name: FormName, benchmarks: list[Benchmark], file: Path, settings: Settings, again: bool = False
) -> bool:
    """Runs benchmarks in one form and writes the file after each; whether none failed.

    Raises:
        StorageError: the file cannot be written, or is of another form, machine or set of versions.
    """
    make_folder(settings.work)
    with folder_lock(settings.work, "a run of benchmarks"):
        record = continued(file, form_name)
        good = True
        for benchmark in benchmarks:
            form = benchmark.form(form_name)
            if isinstance(form, str):
                say(f"{benchmark.name}: no {form_name} form: {form}")
                continue
            earlier = record.benchmarks.get(benchmark.name)
            if earlier is not None and earlier.status == "done" and not again:
                say(f"{benchmark.name}: recorded {earlier.recorded}; --again replaces it")
                continue
            say(f"{benchmark.name}: begins")
            outcome = run_benchmark(benchmark, form, settings)
            record = record.model_copy(update={"benchmarks": {**record.benchmarks, benchmark.name: outcome}})
            write_record(file, record)
            print(f"{benchmark.name}: {told(outcome)}", flush=True)
            good = good and outcome.status != "failed"
    return good


def told(outcome: Outcome) -> str:
    """What became of a benchmark, in one line."""
    load = "" if outcome.load is None else f", load {outcome.load[0]:.1f} to {outcome.load[1]:.1f}"
    count = f"{len(outcome.figures)} figure{'' if len(outcome.figures) == 1 else 's'}"
    if outcome.status == "skipped":
        return f"skipped: {outcome.reason}"
    failed = f"failed: {outcome.reason}; " if outcome.status == "failed" else ""
    return f"{failed}{count} in {outcome.seconds:.0f} s{load}"


def show_rows(rows: list[Row]) -> None:
    """A line per figure."""
    for row in rows:
        change = "" if row.change is None else f", {row.change:.3f} of before"
        note = f" ({row.note})" if row.note else ""
        values = " -> ".join(cell(figure) or "none" for figure in (row.before, row.after))
        unit = next(figure.unit for figure in (row.after, row.before) if figure is not None)
        print(f"{row.verdict}: {row.benchmark}, {row.name}: {values} {unit}{change}{note}")


def compare(before: Path, after: Path, as_json: bool) -> int:
    """Prints a verdict per figure; 3 where one is worse."""
    old, new = read_record(before), read_record(after)
    rows, about = compared(old, new), differences(old, new)
    if as_json:
        plain = [{"benchmark": row.benchmark, "figure": row.name, "change": row.change} for row in rows]
        verdicts = [{**each, "verdict": row.verdict, "note": row.note} for each, row in zip(plain, rows, strict=True)]
        print(json.dumps({"differences": about, "figures": verdicts}, indent=1))
    else:
        for line in about:
            print(line)
        show_rows(rows)
    return 3 if any(row.is_worse for row in rows) else 0


def write_page(files: list[Path], out: Path) -> None:
    """Makes the page of files; by default of those that are kept with the sources."""
    files = files or sorted(RECORDED.glob("*/*.json"))
    if not files:
        raise UserError(f"there is no file of figures in {RECORDED}; name some, or run `quick` first")
    records: dict[str, Record] = {}
    for file in files:
        name = file.stem if file.stem not in records else f"{file.parent.name} {file.stem}"
        records[name] = read_record(file)
    write_text(out, page(records, BENCHMARKS))
    print(f"{out}: {len(records)} file(s) of figures")


def parsed(words: list[str] | None) -> argparse.Namespace:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all benchmarks, and which have a quick and a full form")
    for name, what in (("quick", "a minute or two each"), ("full", "as docs/results has them: hours")):
        one = commands.add_parser(name, help=what)
        one.add_argument("--json", type=Path, required=True, help="file of the figures; what it has is not run again")
        one.add_argument("--only", nargs="+", metavar="NAME", help="these benchmarks")
        one.add_argument("--again", action="store_true", help="also those that the file has; they are replaced")
        one.add_argument("--repeats", type=int, default=1, help="of each benchmark, for a spread between processes")
        one.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder of what they write; kept")
        one.add_argument("--inputs", type=Path, default=Path("benchmark_inputs"), help="folder of published tables")
        one.add_argument("--limit-minutes", type=float, default=20.0 if name == "quick" else 600.0)
        one.add_argument("--page", action="store_true", help=f"then make {PAGE.relative_to(ROOT)}")
    one = commands.add_parser("compare", help="a verdict per figure of two files")
    one.add_argument("before", type=Path)
    one.add_argument("after", type=Path)
    one.add_argument("--as-json", action="store_true")
    one = commands.add_parser("page", help="make the page of files of figures")
    one.add_argument("files", type=Path, nargs="*", help=f"default: all in {RECORDED.relative_to(ROOT)}")
    one.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args(words)
    if getattr(options, "repeats", 1) < 1 or getattr(options, "limit_minutes", 1.0) <= 0:
        parser.error("--repeats and --limit-minutes must be above zero")
    return options


def main(words: list[str] | None = None) -> int:
    """Runs a command line; the exit code, 2 for what the user can mend."""
    try:
        return run_command(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_command(words: list[str] | None) -> int:
    options = parsed(words)
    if options.command == "list":
        show_list()
        return 0
    if options.command == "compare":
        return compare(options.before, options.after, options.as_json)
    if options.command == "page":
        write_page(options.files, options.out)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no benchmark runs on
    settings = Settings(options.work.resolve(), options.inputs.resolve(), options.repeats, options.limit_minutes)
    good = run_all(options.command, chosen(options.only), options.json, settings, options.again)
    if options.page:
        write_page([], PAGE)
    return 0 if good else 1


if __name__ == "__main__":
    with as_command():
        sys.exit(main())
