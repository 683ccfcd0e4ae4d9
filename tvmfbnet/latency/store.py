"""Where the measurements of a target live, and how its latency table is loaded from there.

One folder a target: ``latency.jsonl`` is the journal of what was measured here, ``table.csv`` a table that was
imported from elsewhere; the journal goes first. ``kernels.json`` holds what tuning knows of the parts' kernels.
``correction-SPACE.json`` is what comparing sums of blocks with whole nets found. The folder of all targets is
``tuning_logs`` in the current directory, unless the environment variable ``TVMFBNET_TUNING_LOGS`` or an argument names
another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.latency.additivity import load_correction
from tvmfbnet.latency.foreign import read_table
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernels import recall
from tvmfbnet.latency.measurement import NET, OVERHEAD, Context, Measurement
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import say

ENVIRONMENT = "TVMFBNET_TUNING_LOGS"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def logs_root(root: Path | None = None) -> Path:
    """The folder of all targets: ``root``, else what the environment names, else ``tuning_logs``."""
    return root or Path(os.environ.get(ENVIRONMENT) or "tuning_logs")


def target_folder(target: str, root: Path | None = None) -> Path:
    """The folder of one target, whether it exists or not; :class:`UserError` if the name could not be a folder's."""
    if not _NAME.fullmatch(target):
        raise UserError(f"bad target name {target!r}: letters, digits, '_', '-' and '.' only, a letter or digit first")
    return logs_root(root) / target


def journal_path(target: str, root: Path | None = None) -> Path:
    """The journal of what was measured for a target."""
    return target_folder(target, root) / "latency.jsonl"


def table_path(target: str, root: Path | None = None) -> Path:
    """The table that was imported under a target's name."""
    return target_folder(target, root) / "table.csv"


def kernels_path(target: str, root: Path | None = None) -> Path:
    """What the kernels of each tuned part take by themselves (:mod:`tvmfbnet.latency.kernels`)."""
    return target_folder(target, root) / "kernels.json"


def correction_path(target: str, space: str, root: Path | None = None) -> Path:
    """What comparing sums with whole nets of a space found for a target."""
    return target_folder(target, root) / f"correction-{space}.json"


def corrected(table: LatencyTable, target: str, space: str, root: Path | None = None) -> LatencyTable:
    """The table with the stored correction for a space applied; the same table where there is none for its cells.

    Says so where a correction was stored for other cells than the table's: measuring again makes it void.
    """
    path = correction_path(target, space, root)
    correction = load_correction(path, table)
    if correction is None:
        if path.exists():
            say(f"note: {path} belongs to other measurements and is not used; run `tvmfbnet latency validate` again")
        return table
    return correction.apply(table) if correction.describe() else table


def measured_table(recorded: Iterable[Measurement], context: Context, protocol: str) -> LatencyTable:
    """Of what a journal holds, the cells measured in one context by one protocol; an empty table where none were."""
    parts = [
        item
        for item in recorded
        if (item.context, item.protocol) == (context, protocol) and item.part.part not in (NET, OVERHEAD)
    ]
    return LatencyTable.from_measurements(parts, context) if parts else LatencyTable({})


def load_table(target: str, root: Path | None = None, context: Context | None = None) -> LatencyTable:
    """Loads a target's table: from its journal, else from an imported table.

    Args:
        target: name of the target.
        root: see :func:`logs_root`.
        context: which measurements to use. None takes the context measured last and says what it leaves out.
            Of those, only the ones timed as the newest was (see ``protocol``) count.

    Raises:
        LatencyError: nothing was measured or imported for the target.
        StorageError: what there is cannot be read.
    """
    journal, table = journal_path(target, root), table_path(target, root)
    if journal.exists():
        measurements = [item for item in Journal(journal).read() if item.part.part != NET]
        if measurements:
            newest = max((m for m in measurements if context in (None, m.context)), key=lambda m: m.time, default=None)
            if newest is None:
                return LatencyTable.from_measurements(measurements, context)  # says what there is instead
            used = [m for m in measurements if (m.context, m.protocol) == (newest.context, newest.protocol)]
            others = len(measurements) - len(used)
            if others and (context is None or any(m.context == context and m not in used for m in measurements)):
                say(
                    f"note: {others} of {len(measurements)} measurements in {journal} are left out: "
                    f"made otherwise than the newest ({newest.context.describe()}, {newest.protocol})"
                )
            times = recall(kernels_path(target, root), newest.context)
            return replace(LatencyTable.from_measurements(used), kernel_ms=times)
    if table.exists():
        return replace(read_table(table), name=target)
    raise LatencyError(
        f"nothing was measured for target {target} in {journal.parent}: run `tvmfbnet tune --target {target}`, "
        f"or bring a table with `tvmfbnet latency import FILE.csv --target {target}`"
    )
