"""The examples of the public API run, and type checkers accept them: in docstrings, in the reference, in the how-to."""

import ast
import doctest
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from brief_target import write_host
from doctest_files import write_fashion_mnist, write_own_block, write_table_of
from forked import run_command

import tvmfbnet as tf
from tvmfbnet.space import own_blocks

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs/how-to/python.md"
REFERENCE = ROOT / "docs/reference/python.md"


def blocks_of(page):
    """The fenced Python of a page."""
    return re.findall(r"(?ms)^```python\n(.*?)^```$", page.read_text())


# The reference has signatures in such blocks; its examples are those of the docstrings.
PAGES = [page for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")) if page != REFERENCE and blocks_of(page)]


def examples():
    """Every docstring of the public API that has examples: of the package, its functions, classes and their methods."""
    finder, parser = doctest.DocTestFinder(), doctest.DocTestParser()
    tests = [parser.get_doctest(tf.__doc__, {}, "tvmfbnet", tf.__file__, 0)]
    for name in tf.__all__:
        value = tf.public(name) if name != "__version__" else None
        if inspect.isclass(value) or inspect.isfunction(value):
            tests += [test for test in finder.find(value, name, globs={}) if test.examples]
    return {test.name: test for test in tests}


EXAMPLES = examples()
SLOW = {"search", "train", "prune", "compile", "forecast_tuning"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what the examples name."""
    write_table_of("fbnet_mini", tmp_path / "table.csv")
    write_fashion_mnist(tmp_path / "datasets/fashion-mnist")
    write_own_block(tmp_path)
    write_host(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(own_blocks, "_REGISTERED", {})
    monkeypatch.delenv("TVMFBNET_DATA", raising=False)
    monkeypatch.delenv("TVMFBNET_TUNING_LOGS", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in EXAMPLES]
)
@pytest.mark.usefixtures("folder")
def test_an_example_of_a_docstring_gives_what_it_says(name):
    said = []
    result = doctest.DocTestRunner().run(EXAMPLES[name], out=said.append)
    assert result.attempted and not result.failed, "".join(said)


def test_every_public_function_and_every_method_that_loads_has_an_example():
    functions = [name for name in tf.__all__ if name != "__version__" and inspect.isfunction(tf.public(name))]
    loaders = ["Space.load", "Target.load", "LatencyTable.load", "Package.load", "Package.bench"]
    assert not {*functions, *loaders} - EXAMPLES.keys() - {"keep_freed_memory"}


def code_of(test):
    return "".join(example.source for example in test.examples)


@pytest.mark.slow
def test_type_checkers_accept_every_example(tmp_path):
    codes = {f"docstring_{re.sub(r'[^a-z]', '_', name.lower())}": code_of(test) for name, test in EXAMPLES.items()}
    codes |= {f"page_{number}": "".join(blocks_of(page)) for number, page in enumerate(PAGES)}
    codes["wrong"] = 'import tvmfbnet as tf\ntf.search("fbnet_mini", 3, "table.csv").best.archs\n'
    for name, code in codes.items():
        ast.parse(code)
        (tmp_path / f"{name}.py").write_text(code)
    write_own_block(tmp_path)
    # With exactly the project's own settings and from its folder, so that what lint has checked is not checked again.
    files, cache = [str(path) for path in sorted(tmp_path.glob("*.py"))], tmp_path / "cache"
    if (ROOT / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", cache)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--no-pretty", *files],
        **{"cwd": ROOT, "env": {**os.environ, "MYPYPATH": str(tmp_path)}, "timeout": 600},
        **{"capture_output": True, "text": True},
    )
    lines = [line.rpartition(f"{tmp_path.name}/")[2] for line in done.stdout.splitlines()]
    complaints = [line for line in lines if ": error: " in line]
    wrong = [line for line in complaints if line.startswith("wrong.py")]
    said = " ".join(wrong)
    assert 'has incompatible type "int"; expected "str"' in said, done.stdout
    assert 'has no attribute "archs"' in said, "names are typed, not Any"
    assert complaints == wrong, done.stdout


# Settings that take long, and what the tests take instead.
SMALLER = {"epochs=20": "epochs=2", "batch_size=128": "batch_size=32", "epochs=30": "epochs=1"}


@pytest.mark.slow
@pytest.mark.rpc
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, folder):
    code = "".join(blocks_of(page))
    for setting, value in SMALLER.items():
        code = code.replace(setting, value)
    done = run_command(["-c", code], folder)
    assert done.returncode == 0, done.stderr
    if page == HOW_TO:
        assert re.search(r"(?m)^[\d.]+ ms on this machine$", done.stdout), done.stdout
        assert "search: 100%" in done.stdout and "has 1 stage" in done.stdout
        assert all(setting in "".join(blocks_of(HOW_TO)) for setting in SMALLER)


def test_the_reference_shows_the_examples():
    shown = REFERENCE.read_text()
    for name, test in EXAMPLES.items():
        if name != "tvmfbnet":
            first = test.examples[-1].source.splitlines()[0].partition("  # doctest")[0]
            assert first in shown, name
