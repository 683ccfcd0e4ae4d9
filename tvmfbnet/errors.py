"""The exceptions of the package: a small tree that separates user errors from internal ones.

A :class:`UserError` reaches the user as one clear line (what is wrong, where, what to do) and exit code 2. Everything
else is an internal error: exit code 1 and a hint at ``--debug``.
"""

from __future__ import annotations

from collections.abc import Sequence


class TvmfbnetError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(TvmfbnetError):
    """Something outside the program is wrong and the user can fix it; the message is one line and says how."""


_LISTED = 8
_LETTERS = 1000


def listed(problems: Sequence[str]) -> str:
    """Problems in one line: the first few and the number of the others, each truncated if very long."""
    more = len(problems) - _LISTED
    shown = [text if len(text) <= _LETTERS else f"{text[:_LETTERS]}..." for text in problems[:_LISTED]]
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


class ConfigError(UserError):
    """A space, target, recipe or table file is malformed; lists every problem, not just the first.

    Args:
        where: the file or argument that was read.
        problems: one phrase per problem.
    """

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = list(problems)
        count = "" if len(self.problems) == 1 else f"{len(self.problems)} problems: "
        super().__init__(f"{where}: {count}{listed(self.problems)}")


class ArchError(UserError):
    """An arch string or block name does not fit the search space."""


class MissingBlockError(ArchError):
    """A block of a user's own is not registered here, or was changed since; the message says which file is missing."""


class DataError(UserError):
    """A data set is missing or not in its expected format."""


class StorageError(UserError):
    """A file or folder cannot be read or written (missing, read-only, disk full, corrupt)."""


class ConstraintError(UserError):
    """A constraint is malformed, or no arch of the space meets it, alone or together with the others."""


class LatencyError(UserError):
    """The latency table lacks an entry, or measurements of different contexts would be mixed."""


class DeviceError(UserError):
    """A tracker, device or remote call failed; says which and what to check."""


class ParityError(UserError):
    """A compiled net's output differs from PyTorch's by more than the gate allows."""


class OutOfMemoryError(UserError):
    """This machine or its GPU ran out of memory; the message says which settings need less."""


class PackageError(UserError):
    """A package does not fit its intended use (another machine, TVM version or thread count); names both sides."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message says which extra of the package brings it."""


class RuntimeUnavailableError(UserError):
    """A runtime cannot run a net here: not installed, another machine, or operators that it lacks in this dtype."""


class DivergedError(UserError):
    """A search or training went NaN or infinite; the last good checkpoint is kept."""


class CollapsedError(UserError):
    """Theta collapsed before it had learned anything; the checkpoint is kept and the message gives the evidence."""
