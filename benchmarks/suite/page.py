"""The page of docs/results that files of figures make: all machines side by side, each with its load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from suite.forms import Benchmark
from suite.records import Figure, FormName, Outcome, Record

HEAD = """\
# Benchmarks, machine by machine

    python benchmarks/run.py quick --json benchmarks/recorded/quick/MACHINE.json
    python benchmarks/run.py page

Made by the second command from the files that the first one writes:
[how to run and compare them](../how-to/benchmarks.md). Each figure is the median of its repeats, with their 10th and
90th percentile (of few repeats the least and the largest) in brackets; without brackets it is counted or computed, or
was measured once. *Load* is the machine's load average when the benchmark began and when it ended: a benchmark adds up
to 1 for each core that it uses, all above is other work, which makes times longer and ratios less certain. The linked
pages have what the full benchmarks measured.
"""
FORMS: dict[FormName, str] = {"quick": "Quick form", "full": "Full form"}


def page(records: Mapping[str, Record], benchmarks: Sequence[Benchmark]) -> str:
    """The page in Markdown.

    Args:
        records: by the name that stands above its column.
        benchmarks: all that there are, in the order of the page.
    """
    parts = [HEAD]
    for form, title in FORMS.items():
        of_form = {name: record for name, record in records.items() if record.form == form}
        if of_form:
            parts.append(f"## {title}\n\n{_machines(of_form)}")
            parts += [text for each in benchmarks if (text := _section(each, of_form))]
            parts.append(f"### Not measured ({form} form)\n\n{_not_measured(of_form, benchmarks)}")
    return "\n".join(parts)


def _machines(records: Mapping[str, Record]) -> str:
    rows = []
    for name, record in records.items():
        machine = record.machine
        told = ", ".join(f"{package} {version}" for package, version in record.versions.items())
        features = ", ".join(machine.features)
        days = sorted({outcome.recorded[:10] for outcome in record.benchmarks.values()})
        day = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
        rows.append([f"`{name}`", machine.title, features, machine.system, told, day])
    return _table(["file", "machine", "features", "system", "versions", "recorded"], rows)


def _section(benchmark: Benchmark, records: Mapping[str, Record]) -> str:
    """What one benchmark measured; empty where it gave no figure."""
    outcomes = {name: record.benchmarks[benchmark.name] for name, record in records.items() if _gave(benchmark, record)}
    if not outcomes:
        return ""
    commands = dict.fromkeys(command for outcome in outcomes.values() for command in outcome.commands)
    lines = [f"### {benchmark.name}", "", f"[{benchmark.page}]({benchmark.page})", ""]
    lines += [f"- `{command}`" for command in commands]
    notes = [f"`{name}`: {_note(outcome)}" for name, outcome in outcomes.items()]
    figures = {figure.name: figure for outcome in outcomes.values() for figure in outcome.figures}
    rows = [
        [name, figure.unit, figure.better, *(cell(_named(outcome, name)) for outcome in outcomes.values())]
        for name, figure in figures.items()
    ]
    heads = ["figure", "unit", "better", *(f"`{name}`" for name in outcomes)]
    return "\n".join([*lines, "", "; ".join(notes) + ".", "", _table(heads, rows)])


def _gave(benchmark: Benchmark, record: Record) -> bool:
    return bool(benchmark.name in record.benchmarks and record.benchmarks[benchmark.name].figures)


def _named(outcome: Outcome, name: str) -> Figure | None:
    return next((figure for figure in outcome.figures if figure.name == name), None)


def _note(outcome: Outcome) -> str:
    load = f", load {outcome.load[0]:.1f} to {outcome.load[1]:.1f}" if outcome.load else ""
    pinned = f", on core{'s' if len(outcome.cores) > 1 else ''} {outcome.cores}" if outcome.cores else ""
    failed = f", **{outcome.status}**: {outcome.reason}" if outcome.status != "done" else ""
    return f"{outcome.recorded} UTC, {outcome.seconds:.0f} s{load}{pinned}{failed}"


def _not_measured(records: Mapping[str, Record], benchmarks: Sequence[Benchmark]) -> str:
    rows = []
    for benchmark in benchmarks:
        for name, record in records.items():
            if _gave(benchmark, record):
                continue
            form = benchmark.form(record.form)
            outcome = record.benchmarks.get(benchmark.name)
            if isinstance(form, str):
                reason = f"no {record.form} form: {form}"
            elif outcome is None:
                reason = "not run yet"
            else:
                reason = f"{outcome.status}: {outcome.reason}"
            rows.append([benchmark.name, f"`{name}`", reason])
    return _table(["benchmark", "file", "why"], rows)


def cell(figure: Figure | None) -> str:
    """A figure's value and spread; empty where there is none."""
    if figure is None:
        return ""
    low, high = figure.spread
    spread = f" ({number(low)} to {number(high)})" if len(figure.values) > 1 else ""
    return f"{number(figure.value)}{spread}"


def number(value: float) -> str:
    """Three significant digits, all digits of large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([text.replace("|", "\\|") for text in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
