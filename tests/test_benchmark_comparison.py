"""Two files of benchmarks' figures are compared fairly, and the page shows machines side by side with their load."""

import json
from types import SimpleNamespace

import pytest

from tvmfbnet.errors import UserError


@pytest.fixture
def suite(benchmark_script):
    """The entry point, the files of figures and their comparison."""
    names = ("run", "suite.records", "suite.compare")
    return SimpleNamespace(**{name.rpartition(".")[2]: benchmark_script(name) for name in names})


def record_of(suite, form="quick", cpu="znver3", status="done", **values):
    """A record whose one benchmark has figures in ms, or of the unit that a name ends with."""
    machine = suite.records.Machine(
        model="CPU", cpu=cpu, features=["avx2"], architecture="x86_64", cores=2, system="Linux 6"
    )
    figures = tuple(
        suite.records.Figure(
            name=name,
            unit="ratio" if "ratio" in name else "ms",
            better="higher" if "high" in name else "lower",
            exact="exact" in name,
            values=value,
        )
        for name, value in values.items()
    )
    outcome = suite.records.Outcome(
        status=status,
        reason="" if status == "done" else "exit code 1",
        commands=("python benchmarks/regressor.py",),
        recorded="2026-11-28 05:00",
        seconds=3,
        load=(0.5, 1.25),
        cores="1",
        figures=figures,
    )
    return suite.records.Record(form=form, machine=machine, versions={"torch": "2"}, benchmarks={"regressor": outcome})


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("time", [1.0, 1.1, 1.2], [1.15, 1.3, 1.4], "slower"),
        ("time", [1.0, 1.1, 1.4], [1.15, 1.3, 1.4], "within noise"),
        ("time", [1.0, 1.01], [0.8, 0.81], "faster"),
        ("time", [1.0], [1.09], "within noise"),
        ("time", [1.0], [1.3], "slower"),
        ("steady", [1.0, 1.0], [1.005, 1.005], "within noise"),
        ("ratio", [1.0, 1.01], [0.8, 0.81], "better"),
        ("ratio_high", [1.0, 1.01], [0.8, 0.81], "worse"),
        ("exact", [1.0], [1.01], "slower"),
        ("exact", [1.0], [1.0000001], "within noise"),
        ("exact", [0.0], [2.0], "slower"),
    ],
)
def test_a_change_counts_beyond_the_spread_of_the_repeats(suite, name, before, after, verdict):
    (row,) = suite.compare.compared(record_of(suite, **{name: before}), record_of(suite, **{name: after}))
    assert row.verdict == verdict


def test_times_of_different_cpus_are_not_compared(suite):
    values = {"time": [1.0], "ratio": [1.0], "exact": [1.0]}
    old, new = record_of(suite, **values), record_of(suite, cpu="znver4", **{**values, "ratio": [2.0]})
    assert [row.verdict for row in suite.compare.compared(old, new)] == ["other CPU", "worse", "within noise"]
    assert suite.compare.differences(old, new)[0].startswith("different CPUs: CPU (znver3), 2 cores and CPU (znver4)")
    assert suite.compare.differences(old, old) == []


def test_runs_of_different_load_say_so(suite):
    old, new = record_of(suite, time=[1.0]), record_of(suite, time=[1.0])
    busy = new.benchmarks["regressor"].model_copy(update={"load": (7.0, 7.0)})
    new = new.model_copy(update={"benchmarks": {"regressor": busy}})
    (line,) = suite.compare.differences(old, new)
    assert line.startswith("different loads: 0.5 and 7.0 on average")


def test_missing_figures_are_told_and_losing_one_to_a_failure_is_worse(suite):
    old = record_of(suite, time=[1.0], other=[1.0])
    _, more, other = suite.compare.compared(old, record_of(suite, time=[1.0], more=[1.0]))
    assert (more.name, more.verdict, more.is_worse) == ("more", "new", False)
    assert (other.name, other.verdict, other.is_worse) == ("other", "missing", False)
    failed = suite.compare.compared(old, record_of(suite, status="failed", time=[1.0]))[1]
    assert (failed.name, failed.verdict, failed.note, failed.is_worse) == ("other", "failed", "exit code 1", True)
    with pytest.raises(UserError, match="compare two runs of one form"):
        suite.compare.compared(old, record_of(suite, form="full", time=[1.0]))


def test_two_files_are_compared_by_a_command(suite, tmp_path, capsys):
    files = [tmp_path / "before.json", tmp_path / "after.json"]
    for file, value in zip(files, (1.0, 2.0), strict=True):
        suite.records.write_record(file, record_of(suite, time=[value]))
    assert suite.run.main(["compare", *map(str, files)]) == 3
    assert capsys.readouterr().out == "slower: regressor, time: 1 -> 2 ms, 2.000 of before (each timed once)\n"
    assert suite.run.main(["compare", *map(str, files[::-1]), "--as-json"]) == 0
    (figure,) = json.loads(capsys.readouterr().out)["figures"]
    assert figure["verdict"] == "faster" and figure["change"] == 0.5


def test_the_page_has_machines_side_by_side_with_their_load(suite, tmp_path):
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    suite.records.write_record(files[0], record_of(suite, time=[1.0, 2.0, 4.0], ratio=[0.5]))
    suite.records.write_record(files[1], record_of(suite, cpu="znver4", time=[12345.0], status="failed"))
    out = tmp_path / "page.md"
    assert suite.run.main(["page", *map(str, files), "--out", str(out)]) == 0
    text = out.read_text()
    assert "| `one` | CPU (znver3), 2 cores | avx2 | Linux 6 | torch 2 | 2026-11-28 |" in text
    assert "| time | ms | lower | 2 (1 to 4) | 12,345 |" in text and "| ratio | ratio | lower | 0.5 |  |" in text
    assert "`one`: 2026-11-28 05:00 UTC, 3 s, load 0.5 to 1.2, on core 1; `two`" in text
    assert "**failed**: exit code 1" in text
    assert "| peak_memory | `two` | not run yet |" in text
    assert "| search_quality | `one` | no quick form: it trains nets for hours |" in text


def test_the_page_is_that_of_the_recorded_files(suite, tmp_path):
    suite.run.main(["page", "--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == suite.run.PAGE.read_text()
