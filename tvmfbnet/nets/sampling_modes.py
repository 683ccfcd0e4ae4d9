"""The forms in which a supernet can take a step. A module of its own, so that settings can name them without torch."""

from __future__ import annotations

from typing import Literal

Form = Literal["mixture", "sampled", "two_path"]
"""How many blocks of a layer run in a step: all, one, or two."""

ThetaForm = Literal["mixture", "sampled", "two_path", "fitted"]
"""How theta learns: by gradient through one of the forms, or fitted to validation losses of drawn archs."""

PathDraws = Literal["theta", "window", "fair"]
"""How paths through single blocks are drawn: see :mod:`tvmfbnet.search.paths`."""
