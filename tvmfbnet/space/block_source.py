"""The identity of Python source that defines blocks: what the code says, without comments, docstrings and layout.

It covers the file itself and, in turn, every module of the user's own that it imports. Of installed packages it has the
version, as their code is not the user's to change; torch and tvmfbnet count as parts of this program. What code reads
while it runs (a file, an environment variable) is not covered.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tvmfbnet.files import digest, read_text

# Of this program, whose versions and sources are part of a measurement's context or of the cache of lowered blocks.
_OUR_OWN = ("tvmfbnet", "torch", "numpy")
_IGNORED_FIELDS = ("ctx", "kind", "type_ignores", "type_comment")


@dataclass(frozen=True)
class SourceFile:
    """Source as it was when its code was loaded.

    Attributes:
        path: the file, for messages and relative imports.
        text: what it holds.
        package: that its relative imports start from; empty for a file of its own.
    """

    path: Path
    text: str
    package: str = ""


def source_digest(source: SourceFile) -> str:
    """8 hex digits that change with the code of a file, of the user's modules that it imports, or of a package."""
    trees: list[Any] = []
    versions: dict[str, str] = {}
    due, seen = [source], {source.path.resolve()}
    while due:
        current = due.pop()
        tree = ast.parse(current.text)
        trees.append(_plain(tree))
        for module in _imported(tree, current.package):
            top = module.__name__.partition(".")[0]
            path = _own_file(module, top)
            if path is not None and path.resolve() not in seen:
                seen.add(path.resolve())
                due.append(SourceFile(path, _first_text(path), module.__package__ or ""))
            elif path is None and top not in sys.stdlib_module_names and top not in _OUR_OWN:
                versions[top] = str(getattr(sys.modules.get(top), "__version__", ""))
    return digest([trees, versions])[:8]


def _imported(tree: ast.Module, package: str) -> Iterator[Any]:
    """The loaded modules that a file names in its imports."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in (*parents, node.module or "") if part)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (sys.modules[name] for name in names if name in sys.modules)


def _own_file(module: Any, top: str) -> Path | None:
    """The source of a module that is the user's: neither of Python, nor installed, nor of this program."""
    file = getattr(module, "__file__", None)
    if file is None or not str(file).endswith(".py") or top in _OUR_OWN or top in sys.stdlib_module_names:
        return None
    return None if any(folder in Path(file).resolve().parents for folder in _installed_folders()) else Path(file)


@cache
def _installed_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in names})


@cache
def _first_text(path: Path) -> str:
    """A module's text when it was first asked for: as its code, it stays for the life of the process."""
    return read_text(path)


def _plain(node: Any) -> Any:
    """A syntax tree as plain data that is the same for all versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_text(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    values = {name: getattr(node, name, None) for name in node._fields if name not in _IGNORED_FIELDS}
    fields = {name: _plain(value) for name, value in values.items() if value is not None and value != []}
    return [type(node).__name__, fields]


def _is_text(node: Any) -> bool:
    """Whether a statement is a text alone, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
