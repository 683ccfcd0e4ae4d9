"""Python files that define blocks: which are loaded, when, and how.

A file is loaded because a user names it: in a space file (``block_files: [my_blocks.py]``, relative to that file), or
in the environment variable ``TVMFBNET_BLOCK_FILES``, which reaches every process that is started from this one. Loading
runs the file, as importing does; so no file is ever loaded because a checkpoint, a run folder or a table asks for it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tvmfbnet.errors import UserError
from tvmfbnet.files import digest, read_text
from tvmfbnet.space.own_blocks import prefer

ENVIRONMENT = "TVMFBNET_BLOCK_FILES"


def load_block_files(files: Sequence[str], folder: Path) -> None:
    """Runs files of blocks, which register what they define; those that this process ran already are left out.

    Args:
        files: as named by the user.
        folder: that relative names start from.

    Raises:
        UserError: a file is no Python file or fails; says where.
        StorageError: it cannot be read.
    """
    for file in files:
        path = folder / Path(file).expanduser()
        if path.suffix != ".py":
            raise UserError(f"block file {path}: not a Python file (.py)")
        _run(path.resolve())


def load_environment_files() -> None:
    """Runs the files that the environment names, once per process and value."""
    _load_listed(os.environ.get(ENVIRONMENT, ""))


@cache
def _load_listed(files: str) -> None:
    load_block_files([name for name in files.split(os.pathsep) if name], Path())


def _run(path: Path) -> None:
    text = read_text(path)
    name = f"tvmfbnet_blocks_{path.stem}_{digest([str(path), text])[:12]}"
    if name in sys.modules:
        prefer(path, text)
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UserError(f"block file {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            exec(compile(text, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # a script's sys.exit() must not end the command that reads it
        del sys.modules[name]
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"block file {path} fails{_line_of(error, path)}: {what}") from error
    except BaseException:
        del sys.modules[name]
        raise


def _line_of(error: BaseException, path: Path) -> str:
    """`` in line 7`` where the error comes from a line of the file."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" in line {line}"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets a file import its neighbours, as a script may."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
