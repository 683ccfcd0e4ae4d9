"""The exceptions of the package: a small tree, so that callers can tell a user's slip from our own bug.

Whatever derives from :class:`UserError` reaches the user as one clear line (what is wrong, where, what to do)
and exit code 2. Everything else is an internal failure: exit code 1 and a hint at ``--debug``.
"""

from __future__ import annotations

from collections.abc import Sequence


class TvmfbnetError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(TvmfbnetError):
    """Something outside the program is wrong and the user can mend it; the message is one line and says how."""


_LISTED = 8
_LETTERS = 1000


def listed(problems: Sequence[str]) -> str:
    """Problems in one line; of a great many the first ones, and how many more there are; what is endless is cut."""
    more = len(problems) - _LISTED
    shown = [some if len(some) <= _LETTERS else f"{some[:_LETTERS]}..." for some in problems[:_LISTED]]
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


class ConfigError(UserError):
    """A space, target, recipe or table file is malformed; carries every problem that was found, not just the first.

    Args:
        where: the file or argument that was read.
        problems: one phrase a problem.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        count = "" if len(self.problems) == 1 else f"{len(self.problems)} problems: "
        super().__init__(f"{where}: {count}{listed(self.problems)}")


class ArchError(UserError):
    """An arch string or block name does not fit the search space."""


class DataError(UserError):
    """A data set is missing or not in the form that its name promises."""


class StorageError(UserError):
    """A file or folder cannot be read or written (missing, read-only, disk full, corrupt)."""


class LatencyError(UserError):
    """The latency table lacks what was asked of it, or measurements that must not be mixed would be."""


class DeviceError(UserError):
    """A tracker, device or remote call failed; says which and what to look at."""


class ParityError(UserError):
    """A compiled net's output differs from PyTorch's by more than the gate allows."""


class OutOfMemoryError(UserError):
    """The memory of this machine or its GPU is too small for what was asked; the message says what needs less."""


class PackageError(UserError):
    """A package does not fit what it is wanted for: another machine, another TVM, other threads; names both sides."""


class DivergedError(UserError):
    """A search or training went NaN or infinite; the last good checkpoint is kept."""


class CollapsedError(UserError):
    """Theta settled before it had learned anything; the checkpoint is kept and the message says what was seen."""
