"""Durations for humans: spelling them out, and warning about work that takes days."""

from __future__ import annotations

from collections.abc import Sequence

_MINUTE, _HOUR, DAY = 60, 3600, 86_400


def spell_seconds(seconds: float) -> str:
    """A duration to two digits or units: ``0.24 s``, ``45 s``, ``12 min``, ``3 h 20 min``, ``4 days 3 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < DAY:
        hours, minutes = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / _HOUR), 24)
    return f"{days} day{'s' if days > 1 else ''}" + (f" {hours} h" if hours else "")


def warning_of_days(seconds: float, shorter: Sequence[str]) -> str:
    """A warning that something takes a day or more, with the settings that shorten it; empty for shorter work."""
    if seconds < DAY:
        return ""
    return f"warning: that is more than a day; what shortens it: {'; '.join(shorter)}"
