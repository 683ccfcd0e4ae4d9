"""The forms in which a supernet can take a step. A module of its own, so that settings can name them without torch."""

from __future__ import annotations

from typing import Literal

Form = Literal["mixture", "sampled", "two_path"]
"""How many blocks of a layer run in a step: all, one, or two."""
