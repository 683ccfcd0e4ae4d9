"""The search for an arch: strategies, constraints, derivation.

``tvmfbnet.search`` is this package, and called it is the public function :func:`tvmfbnet.api.search.search`: the
attribute ``search`` of ``tvmfbnet`` can only be one object, and Python binds a package's name to the package.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import tvmfbnet


class _CallablePackage(ModuleType):
    """A package that is also a function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the public function."""
        search: Any = tvmfbnet.public("search")
        return search(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
