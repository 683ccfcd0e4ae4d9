"""Benchmarks follow the package: whatever they import from it is there. None is run."""

import ast
import pkgutil
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


def is_there(name: str) -> bool:
    """Whether a module has an attribute, or a package a module, of that full name."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def missing_names(source: str) -> list[str]:
    """What a source imports from the package and is not in it."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("tvmfbnet"):
            continue
        missing += [name for name in (f"{node.module}.{alias.name}" for alias in node.names) if not is_there(name)]
    return missing


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_imports_is_there(file):
    assert not missing_names(file.read_text())


def test_a_name_that_has_moved_would_be_seen():
    assert missing_names("from tvmfbnet.search.costs import Costs") == ["tvmfbnet.search.costs.Costs"]
    assert missing_names("from tvmfbnet.files import nowhere, write_json") == ["tvmfbnet.files.nowhere"]
