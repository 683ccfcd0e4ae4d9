"""The benchmarks' entry point: figures are kept whatever fails, nothing is repeated, no script is left out."""

import ast
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvmfbnet.errors import StorageError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "benchmarks"

HANDS_OVER = """
import sys
from figures import report_figure
report_figure("time", [3.0, 1.0, 2.0], "ms", better="lower")
print("pinned to", sorted(__import__("os").sched_getaffinity(0)), sys.argv[1:])
"""
FAILS = HANDS_OVER + 'sys.exit("the device was on fire")\n'
HANGS = HANDS_OVER + (
    "import subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\n"
    "open('child', 'w').write(str(child.pid))\ntime.sleep(60)\n"
)


@pytest.fixture
def suite(benchmark_script):
    """The entry point and its modules."""
    names = ("run", "figures", "suite.records", "suite.runner", "suite.registry", "suite.forms")
    return SimpleNamespace(**{name.rpartition(".")[2]: benchmark_script(name) for name in names})


@pytest.fixture
def fakes(suite, tmp_path, monkeypatch):
    """Runs fake benchmarks, each given by its source or by a form, as the entry point does."""
    scripts, work = tmp_path / "scripts", tmp_path / "work"
    scripts.mkdir()
    (scripts / "figures.py").symlink_to(SCRIPTS / "figures.py")

    def run(file=tmp_path / "figures.json", again=False, limit_minutes=1.0, repeats=1, form=None, **sources):
        for name, source in sources.items():
            (scripts / f"{name}.py").write_text(source)
        settings = suite.runner.Settings(work, tmp_path / "inputs", repeats, limit_minutes, scripts)
        given = [suite.forms.Benchmark(name, "x.md", form or suite.forms.Form(), "none") for name in sources]
        good = suite.run.run_all("quick", given, file, settings, again)
        return good, suite.records.read_record(file).benchmarks

    return SimpleNamespace(run=run, work=work, file=tmp_path / "figures.json")


def is_benchmark(file):
    return "__main__" in file.read_text()


def test_every_script_is_listed_and_those_with_a_form_report_figures(suite):
    benchmarks, helpers = suite.registry.BENCHMARKS, suite.registry.HELPERS
    names = [benchmark.script for benchmark in benchmarks] + list(helpers)
    assert sorted(names) == sorted(file.stem for file in SCRIPTS.glob("*.py"))
    pages = {page.name for page in (ROOT / "docs/results").glob("*.md")}
    for benchmark in benchmarks:
        assert is_benchmark(SCRIPTS / f"{benchmark.script}.py") and benchmark.page in pages
        source = sources_of(benchmark.script)
        for name in ("quick", "full"):
            form = benchmark.form(name)
            if isinstance(form, str):
                assert len(form) > 10, f"{benchmark.name} has no {name} form and no reason"
                continue
            assert "report_figure(" in source, f"{benchmark.name} reports nothing"
            options = re.findall(r"(?<!\S)--[a-z-]+", " ".join(form.options))
            assert not [option for option in options if f'"{option}"' not in source], benchmark.name


def sources_of(script):
    """The source of a script and of those that it imports from its folder."""
    source = (SCRIPTS / f"{script}.py").read_text()
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    files = [SCRIPTS / f"{module}.py" for module in imported - {"figures"} if module]
    return source + "".join(file.read_text() for file in files if file.exists())


def test_a_failure_is_recorded_and_the_others_run(suite, fakes, capsys):
    good, outcomes = fakes.run(first=FAILS, second=HANDS_OVER)
    assert not good
    first, second = outcomes["first"], outcomes["second"]
    assert (
        first.status == "failed"
        and first.reason == "exit code 1: the device was on fire; see output/first.txt in --work"
    )
    assert [figure.values for figure in first.figures] == [[3.0, 1.0, 2.0]]
    assert (second.status, second.reason, second.commands) == ("done", "", ("python benchmarks/second.py",))
    assert second.figures[0].value == 2.0 and second.figures[0].spread == (1.0, 3.0)
    assert second.load is not None and len(second.load) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("first: failed: exit code 1") and printed[1].startswith("second: 1 figure in ")


def test_a_benchmark_is_pinned_to_the_cores_that_it_needs(fakes):
    _, outcomes = fakes.run(one=HANDS_OVER)
    assert re.fullmatch(r"\d+", outcomes["one"].cores)
    printed = (fakes.work / "output" / "one.txt").read_text()
    assert printed.startswith(f"pinned to [{outcomes['one'].cores}]")


def test_a_second_call_runs_what_failed_and_keeps_the_others(fakes):
    before = fakes.run(first=FAILS, second=HANDS_OVER)[1]
    good, after = fakes.run(first=HANDS_OVER.replace("3.0", "9.0"), second=FAILS)
    assert good and after["first"].status == "done" and after["second"] == before["second"]
    good, after = fakes.run(again=True, second=FAILS)
    assert not good and after["second"].status == "failed" and after["first"].status == "done"


def test_repeats_of_a_benchmark_add_their_values(fakes):
    _, outcomes = fakes.run(repeats=2, one=HANDS_OVER)
    assert outcomes["one"].figures[0].values == [3.0, 1.0, 2.0] * 2


def test_a_hanging_benchmark_is_ended_with_all_that_it_started(fakes):
    _, outcomes = fakes.run(limit_minutes=0.03, slow=HANGS)
    assert outcomes["slow"].reason.startswith("it took longer than 0.03 minutes")
    assert outcomes["slow"].figures
    child = int((fakes.work / "child").read_text())
    ends = time.monotonic() + 5
    while time.monotonic() < ends and is_alive(child):
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('nothing')", "it reported no figure"),
        ("import os\nopen(os.environ['TVMFBNET_BENCHMARK_FIGURES'], 'w').write('{\"name\": 1}')", "cannot be read"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed by signal 11: it printed nothing"),
    ],
)
def test_a_benchmark_without_figures_failed(fakes, source, reason):
    good, outcomes = fakes.run(one=source)
    assert not good and outcomes["one"].status == "failed" and reason in outcomes["one"].reason


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"inputs": {"pixel3.csv": "published"}}, r"pixel3.csv is not in --inputs \(published\)"),
        ({"programs": {"no-such-program": "package x"}}, r"program no-such-program is not installed \(package x\)"),
        ({"modules": {"no_such_module": "pip install it"}}, r"no_such_module is not installed \(pip install it\)"),
        ({"cores": 4000}, r"it takes 4000 cores"),
    ],
)
def test_what_a_benchmark_lacks_is_told_and_fails_nothing(suite, fakes, needs, reason):
    good, outcomes = fakes.run(form=suite.forms.Form(**needs), one=HANDS_OVER)
    assert good and outcomes["one"].status == "skipped" and re.search(reason, outcomes["one"].reason)


def test_a_failed_preparation_fails_the_benchmark_that_needs_it(suite, fakes):
    form = suite.forms.Form(prepare=(("spaces show nowhere.yaml",),))
    _, outcomes = fakes.run(form=form, one=HANDS_OVER)
    assert outcomes["one"].reason.startswith("its preparation failed, tvmfbnet spaces show nowhere.yaml: exit code 2")


def test_figures_of_another_run_are_not_mixed_in(suite, fakes, tmp_path):
    fakes.run(one=HANDS_OVER)
    record = suite.records.read_record(fakes.file)
    other_cpu = record.machine.model_copy(update={"cpu": "other"})
    for changes, problem in (
        ({"form": "full"}, "is of a full run"),
        ({"machine": other_cpu}, "give --json another file"),
        ({"versions": {**record.versions, "torch": "0.1"}}, "other versions .torch 0.1 there"),
    ):
        suite.records.write_record(fakes.file, record.model_copy(update=changes))
        with pytest.raises(StorageError, match=problem):
            fakes.run(one=HANDS_OVER)
    fakes.file.write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        fakes.run(one=HANDS_OVER)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["compare", "none.json", "none.json"], r"error: cannot read \S+none\.json: .+\n"),
        (["quick", "--json", "x.json", "--only", "nope"], r"error: unknown benchmark 'nope': known are [\w, ]+\n"),
        (["page", "none.json"], r"error: cannot read \S+none\.json: .+\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(suite, tmp_path, monkeypatch, capsys, words, problem):
    monkeypatch.chdir(tmp_path)
    assert suite.run.main([str(tmp_path / word) if word == "none.json" else word for word in words]) == 2
    assert re.fullmatch(problem, capsys.readouterr().err)


def test_a_figure_is_handed_over_only_to_the_entry_point(suite, tmp_path, monkeypatch):
    monkeypatch.delenv(suite.figures.FIGURES_FILE, raising=False)
    suite.figures.report_figure("time", float("nan"), "ms", better="lower")
    file = tmp_path / "figures.jsonl"
    monkeypatch.setenv(suite.figures.FIGURES_FILE, str(file))
    for values, problem in (([], "has no values"), ([float("nan")], "JSON")):
        with pytest.raises(ValueError, match=problem):
            suite.figures.report_figure("time", values, "ms", better="lower")
    suite.figures.report_figure("time", 2, "ms", better="lower", exact=True)
    assert json.loads(file.read_text())["values"] == [2.0]


def test_features_are_those_of_the_cpu(suite, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd crc32 asimddp\n")
    assert suite.records.cpu_features(cpuinfo) == ["asimd", "asimddp"]
    assert suite.records.cpu_features(tmp_path / "none") == []
    assert os.uname().machine != "x86_64" or "avx2" in suite.records.this_machine().features


@pytest.mark.slow
def test_a_real_benchmark_runs_through_the_entry_point(suite, tmp_path):
    words = ["quick", "--json", str(tmp_path / "figures.json"), "--work", str(tmp_path), "--only", "choosing"]
    assert suite.run.main(words) == 0
    outcome = suite.records.read_record(tmp_path / "figures.json").benchmarks["choosing"]
    assert outcome.status == "done" and len(outcome.figures) == 2
    assert all(figure.exact and 0 < figure.value < 20 for figure in outcome.figures)
