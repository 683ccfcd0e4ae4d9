"""The interface of a latency source, and the one path from a source to a table: load, complete, correct.

Every command, the pipeline and the library get their tables from :func:`latency_table`, so what is predicted, corrected
or simulated is decided and said in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from tvmfbnet.progress import say

if TYPE_CHECKING:
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.space.space import NetPart, Space


class LatencySource(Protocol):
    """Where latencies come from: measurements of a target, a file, a model of a processor.

    A source gives the latencies that it has, in milliseconds, each labelled ``measured``, ``predicted`` or
    ``simulated``; measured and simulated ones never come in one table. It fills no gaps: completing a table is the same
    for all sources, and :func:`latency_table` does it. But only a source knows whether sums of its cells were compared
    with whole nets, so it applies its own correction. Its tables say where they come from (``origin``). Loading writes
    nothing, loads neither TVM nor torch, gives equal tables until what the source reads changes, and fails with one
    line that says what to do.
    """

    @property
    def name(self) -> str:
        """Its name for people: a target, a file, a described processor."""
        ...

    @property
    def computes(self) -> bool:
        """Whether it is a model that has the latency of any part, and must be asked for particular ones."""
        ...

    def load(self, parts: Sequence[NetPart] = ()) -> LatencyTable:
        """The table of all that it has, or, if it computes, of ``parts``.

        Raises:
            LatencyError: it has nothing, or it computes and no parts are given.
            UserError: it cannot be read.
        """
        ...

    def correct(self, table: LatencyTable, space: Space) -> LatencyTable:
        """The table with the source's stored correction for a space applied; the same table if there is none."""
        ...


class Missing(Enum):
    """What to do about parts whose latency a source lacks."""

    PREDICT = "predict them; LatencyError with too few others to learn from"
    PREDICT_IF_POSSIBLE = "predict them; leave them out with too few others to learn from"
    REFUSE = "LatencyError that lists them"
    LEAVE = "leave them out"


def latency_table(
    source: LatencySource,
    space: Space,
    *,
    parts: Sequence[NetPart] | None = None,
    missing: Missing = Missing.PREDICT,
    correct: bool = True,
    seed: int = 0,
) -> LatencyTable:
    """The latency table of a space from a source: loaded, completed by predictions, corrected.

    Says in one line each how many parts are predicted, which correction is applied, and that a table is simulated.

    Args:
        source: where the latencies come from.
        space: whose parts the table must cover.
        parts: only these; by default all parts of the space.
        missing: what to do about parts that the source lacks.
        correct: whether to apply the source's stored correction. Not for a table that is itself to be validated or
            exported: the correction belongs to the plain one.
        seed: of the regressor.

    Raises:
        LatencyError: the source has nothing, or parts are missing and ``missing`` does not allow it; lists them.
        UserError: the source cannot be read.
    """
    wanted = space.distinct_parts() if parts is None else list(dict.fromkeys(parts))
    table = source.load(wanted)
    absent = table.missing(wanted)
    if missing is Missing.REFUSE:
        table.require(absent)
    if absent and missing in (Missing.PREDICT, Missing.PREDICT_IF_POSSIBLE):
        table = _completed(table, wanted, missing, seed)
        predicted = len(absent) - len(table.missing(absent))
        if predicted:
            say(f"note: {predicted} of {len(wanted)} parts were not {table.basis}; their latencies are predicted")
    if correct:
        table = source.correct(table, space)
    if table.correction:
        say(f"note: latencies are corrected by what whole nets took: {table.correction}")
    if table.is_simulated:
        say(f"note: the latencies of {table.name or source.name} are simulated by a model; no device took them")
    return table


def _completed(table: LatencyTable, parts: Sequence[NetPart], missing: Missing, seed: int) -> LatencyTable:
    from tvmfbnet.latency.regressor import can_complete, complete  # xgboost, which a whole table does without

    if missing is Missing.PREDICT_IF_POSSIBLE and not can_complete(table):
        return table
    return complete(table, parts, seed)
