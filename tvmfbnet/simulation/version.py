"""Which version of the simulator this is: a digest of its sources, so that no figure outlives its model."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from tvmfbnet.tools import source_folder

# Of this package, what changes no figure.
_WITHOUT_FIGURES = {"__init__.py", "cores.py", "microbenchmarks.py", "programs.py", "tools.py", "version.py"}


@cache
def simulator_version() -> str:
    """Twelve hex digits: of the plugin's and the clock's sources, and of what turns blocks into cycles."""
    package, plugin = Path(__file__).resolve().parent, source_folder() / "device" / "simulator"
    own = (path for path in package.glob("*.py") if path.name not in _WITHOUT_FIGURES)
    files = [*own, *(path for path in plugin.rglob("*") if path.is_file())]
    content = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        content.update(f"{path.name}\0".encode())
        content.update(path.read_bytes())
    return content.hexdigest()[:12]
