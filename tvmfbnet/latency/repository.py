"""Where the measurements of a target are stored, and how its latency table is loaded from there.

One folder per target, and each fact in it has one owner:

* ``latency.jsonl``, the journal: every measurement of parts and nets (:mod:`tvmfbnet.latency.journal`).
* ``energy.jsonl``: every measurement of the energy of parts (:mod:`tvmfbnet.latency.energies`).
* ``table.csv``: an imported table; the journal takes precedence.
* ``database*/trials.jsonl``: every tuning trial and what it took (:mod:`tvmfbnet.autotune.trial_log`).
* ``database*/database_*``: the schedules, in TVM's form (:mod:`tvmfbnet.autotune.database`).
* ``kernels.json``: which kernels each part consists of (:mod:`tvmfbnet.latency.kernel_map`).
* ``correction-SPACE-KEY.json``: the correction from comparing sums of blocks with whole nets, for one context and the
  content of one space (:mod:`tvmfbnet.latency.additivity`).

A :class:`~tvmfbnet.latency.table.LatencyTable` is derived from these on every load: cells and overhead from the
journal, kernel times from the trials of each part's kernels. The folder of all targets is ``tuning_logs`` in the
current directory, unless the environment variable ``TVMFBNET_TUNING_LOGS`` or an argument names another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tvmfbnet.advice import bring_table, tune, validate
from tvmfbnet.errors import LatencyError, UserError
from tvmfbnet.files import digest
from tvmfbnet.latency.additivity import load_correction
from tvmfbnet.latency.context import Context, choose_context
from tvmfbnet.latency.energies import measured_energies
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.kernel_map import load_kernel_times
from tvmfbnet.latency.measurement import NET, OVERHEAD, Measurement
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.table_io import read_table
from tvmfbnet.progress import say
from tvmfbnet.space.blocks import is_known
from tvmfbnet.space.space import BLOCK, NetPart, Space, content_key

ENVIRONMENT = "TVMFBNET_TUNING_LOGS"

_KERNELS = "kernels.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def logs_root(root: Path | None = None) -> Path:
    """The folder of all targets: ``root``, else what the environment names, else ``tuning_logs``."""
    return root or Path(os.environ.get(ENVIRONMENT) or "tuning_logs")


def target_folder(target: str, root: Path | None = None) -> Path:
    """The folder of one target, existing or not; :class:`UserError` if the name cannot be a folder name."""
    if not _NAME.fullmatch(target):
        raise UserError(f"bad target name {target!r}: letters, digits, '_', '-' and '.' only, a letter or digit first")
    return logs_root(root) / target


def journal_path(target: str, root: Path | None = None) -> Path:
    """The journal of a target's measurements."""
    return target_folder(target, root) / "latency.jsonl"


def table_path(target: str, root: Path | None = None) -> Path:
    """A target's imported table."""
    return target_folder(target, root) / "table.csv"


def kernels_path(target: str, root: Path | None = None) -> Path:
    """The kernels of a target's tuned parts (:mod:`tvmfbnet.latency.kernel_map`)."""
    return target_folder(target, root) / _KERNELS


def correction_path(target: str, space: Space, context: Context | None, root: Path | None = None) -> Path:
    """The correction of a target's table for one context and the content of one space."""
    key = digest([content_key(space), None if context is None else context.key])[:8]
    return target_folder(target, root) / f"correction-{space.name}-{key}.json"


def corrected(table: LatencyTable, target: str, space: Space, root: Path | None = None) -> LatencyTable:
    """The table with the stored correction for a space applied; the same table if there is none for its cells.

    A correction that was fitted to other cells is void after measuring again, which a note says.
    """
    path = correction_path(target, space, table.context, root)
    correction = load_correction(path, table, f"run {validate(target)}")
    if correction is None:
        if path.exists():
            say(f"note: {path} belongs to other measurements and is not used; run {validate(target)} again")
        return table
    return correction.apply(table) if correction.describe() else table


def measured_table(recorded: Iterable[Measurement], context: Context) -> LatencyTable:
    """The table of the measurements in one context; empty if there are none.

    For a context without a device, the device model measured last counts.
    """
    parts = [
        item
        for item in recorded
        if item.part.part not in (NET, OVERHEAD) and context.admits(item.context) and _is_known(item.part)
    ]
    return LatencyTable.from_measurements(parts, parts[-1].context, in_order=True) if parts else LatencyTable({})


def load_table(
    target: str,
    root: Path | None = None,
    context: Context | None = None,
    device_model: str | None = None,
    dtype: str | None = None,
) -> LatencyTable:
    """Loads a target's table: from its journal, else from an imported table. Writes nothing.

    Args:
        target: name of the target.
        root: see :func:`logs_root`.
        context: which measurements to use: among those it admits, the ones of the context measured last. None uses the
            context measured last and says what it leaves out.
        device_model: use only this device model; by default the model measured last.
        dtype: use only measurements in this dtype, without a context; None for float32 where there is any.

    Raises:
        LatencyError: nothing was measured or imported for the target, or nothing in that context or dtype; says what
            there is.
        StorageError: what there is cannot be read.
    """
    journal, table = journal_path(target, root), table_path(target, root)
    if journal.exists():
        recorded = [item for item in Journal(journal).read() if item.part.part != NET]
        measurements = [item for item in recorded if _is_known(item.part)]
        if len(measurements) < len(recorded):
            _say_unknown([item.part.block for item in recorded if not _is_known(item.part)], journal)
        if measurements:
            return _table_of(measurements, journal, context, device_model, dtype)
    if table.exists():
        imported = replace(read_table(table), name=target)
        asked = dtype if context is None else context.dtype
        if asked not in (None, imported.data_type.name):
            if not imported.stated_dtype:
                raise LatencyError(
                    f"{table} was imported and names no dtype: import one of {asked} under a name of its own"
                )
            raise LatencyError(
                f"{table} was imported in {imported.stated_dtype}, not in {asked}: name it "
                f"{target},dtype={imported.stated_dtype}, or import one of {asked} under a name of its own"
            )
        return imported
    raise LatencyError(
        f"nothing was measured for target {target} in {journal.parent}: run {tune(target)}, "
        f"or bring a table with {bring_table(target)}"
    )


def _table_of(
    measurements: Sequence[Measurement],
    journal: Path,
    context: Context | None,
    device_model: str | None,
    dtype: str | None,
) -> LatencyTable:
    contexts = [item.context for item in measurements]
    chosen = choose_context(contexts, context, device_model, str(journal), dtype)
    if chosen is None and dtype is not None and context is None:
        there = ", ".join(dict.fromkeys(item.dtype for item in contexts))
        raise LatencyError(
            f"{journal} has no measurements in {dtype}, only in {there}; run {tune(contexts[-1].target, dtype=dtype)}"
        )
    if chosen is None and context is not None:
        newest = contexts[-1]
        raise LatencyError(
            f"{journal} has no measurements of {context.describe()}: those it has were made in another context "
            f"({context.difference(newest)}) and are not used; run {tune(context.target)}"
        )
    used = [item for item in measurements if item.context == chosen]
    mine = used[-1].context
    others = sum(other != chosen and (other.model, other.dtype) == (mine.model, mine.dtype) for other in contexts)
    if others and context is None:
        say(
            f"note: {others} of {len(measurements)} measurements in {journal} are left out: their context differs from "
            f"that of the newest ({used[-1].context.describe()})"
        )
    times = load_kernel_times(journal.with_name(_KERNELS), used[-1].context)
    times = {part: ms for part, ms in times.items() if _is_known(part)}
    made = LatencyTable.from_measurements(used, in_order=True)
    energies = measured_energies(journal, used[-1].context, made.cells)
    return replace(made, kernel_ms=times, energies=energies)


def _is_known(part: NetPart) -> bool:
    """Whether a part can be read: a user's own block, only where it is registered as it was when it was timed."""
    return part.part != BLOCK or is_known(part.block)


def _say_unknown(blocks: Sequence[str], journal: Path) -> None:
    names = ", ".join(dict.fromkeys(blocks))
    say(
        f"note: {len(blocks)} measurements in {journal} are left out: they are of blocks that are not defined here or "
        f"were changed since ({names})"
    )
