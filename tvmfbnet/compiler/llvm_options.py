"""A CPU target with further options of LLVM."""

from __future__ import annotations

from typing import Any

import tvm


def with_options(target: tvm.target.Target, **options: Any) -> tvm.target.Target:
    """The target with options such as ``opt_level=2``, for what is compiled; others stay as they are."""
    derived = ("feature.", "tag", "keys")
    given = {str(name): value for name, value in target.export().items() if not str(name).startswith(derived)}
    return tvm.target.Target({**given, **{name.replace("_", "-"): value for name, value in options.items()}})
