"""Properties of TVM targets as plain data: whether a target is a CPU, and that it is small.

No TVM here. :data:`CPU_KINDS` is the single definition of a CPU: other kinds get GPU schedules and GPU timing.
"""

from __future__ import annotations

import math
from typing import Any

# Kinds of TVM targets whose kernels run on a CPU, sequentially, and are called as functions.
CPU_KINDS = ("llvm", "c")
# A TVM target is a few names and numbers, perhaps with a host inside.
_MOST_DEPTH, _MOST_VALUES, _MOST_CHARACTERS = 6, 256, 1000


def compiles_for_cpu(compiled_for: Any) -> bool:
    """Whether the kernels of a ``tvm.target.Target`` run on a CPU."""
    return str(compiled_for.kind.name) in CPU_KINDS


def plain_target(value: Any) -> Any:
    """Returns a TVM target unchanged after checking that it is small, plain data.

    Raises:
        ValueError: it is deeply nested (or recursive), too large, or contains values that JSON lacks.
    """
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if depth > _MOST_DEPTH:
            raise ValueError(f"nested more than {_MOST_DEPTH} deep; a TVM target is a few names and numbers")
        if seen > _MOST_VALUES:
            raise ValueError(f"holds more than {_MOST_VALUES} values; a TVM target is a few names and numbers")
        if isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple)):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if len(item) > _MOST_CHARACTERS:
                raise ValueError(f"holds a text of {len(item)} characters; a TVM target is a few names and numbers")
        elif isinstance(item, (int, float)):
            if not _is_finite(item):
                raise ValueError("holds a number that is not finite or has more than 64 bits")
        else:
            raise ValueError(f"holds a {type(item).__name__}; write texts, numbers, true and false only")
        if isinstance(item, dict) and not all(isinstance(key, str) for key in item):
            raise ValueError("holds a key that is not text")
    return value


def _is_finite(number: float) -> bool:
    return abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)
