"""Optional dependencies: which extra of the package brings which modules, and the one line that says so.

``pip install tvmfbnet`` searches on a latency table. What else needs more calls :func:`require` before it spends
anything. An import that fails later is explained by :func:`explained`, which commands and the public functions run in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvmfbnet.errors import MissingExtraError


@dataclass(frozen=True)
class Extra:
    """One extra of the package.

    Attributes:
        name: as in ``pip install 'tvmfbnet[NAME]'``.
        does: what needs it, as the subject of "... needs".
        modules: the top-level modules that it brings.
    """

    name: str
    does: str
    modules: tuple[str, ...]


EXTRAS = (
    Extra(
        "tune",
        "tuning, compiling and timing on devices",
        ("tvm", "tvm_ffi", "onnx", "onnxscript", "cloudpickle", "tornado"),
    ),
    Extra("onnxruntime", "timing ONNX Runtime beside a package", ("onnxruntime",)),
    Extra("report", "drawing figures and reports", ("matplotlib",)),
    Extra("parquet", "a Parquet table", ("pyarrow",)),
    Extra("nsga2", "the strategy nsga2", ("optuna",)),
    Extra("detection", "judging boxes", ("pycocotools",)),
    Extra("distributed", "training in several processes", ("lightning_fabric",)),
    Extra("tensorboard", "the tensorboard logger", ("tensorboard",)),
)
_BY_NAME = {extra.name: extra for extra in EXTRAS}
_BY_MODULE = {module: extra for extra in EXTRAS for module in extra.modules}
# A missing distribution is told by its name.
_BY_MODULE |= {"apache-tvm": _BY_NAME["tune"], "apache-tvm-ffi": _BY_NAME["tune"]}


def require(*names: str) -> None:
    """Looks whether the modules of some extras are installed, and loads none of them.

    Raises:
        MissingExtraError: one is not; says what brings it.
    """
    for name in names:
        reason = missing(name)
        if reason:
            raise MissingExtraError(reason)


def missing(name: str) -> str:
    """What to say where a module of an extra is not installed; empty where all are."""
    extra = _BY_NAME[name]
    return next((_line(extra, module) for module in extra.modules if not _is_installed(module)), "")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: loaded, but without a spec
        return False


@contextmanager
def explained() -> Iterator[None]:
    """Turns a failed import of an extra's module in the block into a :class:`MissingExtraError`; others stay."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        # A missing part of an installed module is a broken installation, which its own message describes.
        if module not in _BY_MODULE or _is_installed(module):
            raise
        raise MissingExtraError(_line(_BY_MODULE[module], module)) from error


def _line(extra: Extra, module: str) -> str:
    return f"{extra.does} needs {module}, which is not installed: pip install 'tvmfbnet[{extra.name}]'"
