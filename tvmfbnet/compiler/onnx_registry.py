"""Has torch's ONNX exporter read its library of operators once per process: it does so at every call, half of its time.

``torch.onnx.export`` takes no registry, so the method that makes one is replaced during our calls. We register no
operators of our own, so every call gets equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_METHOD = "from_torchlib"


@contextmanager
def one_registry() -> Iterator[None]:
    """Calls of the exporter within share a registry; without effect where torch makes it in another way."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        yield
        return
    stock = vars(ONNXRegistry).get(_METHOD)
    if not isinstance(stock, classmethod):
        yield
        return
    setattr(ONNXRegistry, _METHOD, _kept(stock.__func__, ONNXRegistry))
    try:
        yield
    finally:
        setattr(ONNXRegistry, _METHOD, stock)


@cache
def _kept(make: Any, registry: type[Any]) -> Any:
    made: dict[tuple[Any, ...], Any] = {}

    def from_torchlib(*arguments: Any, **options: Any) -> Any:
        key = (*arguments, *sorted(options.items()))
        if key not in made:
            made[key] = make(registry, *arguments, **options)
        return made[key]

    return staticmethod(from_torchlib)
