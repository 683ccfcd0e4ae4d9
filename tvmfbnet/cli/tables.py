"""How commands that ask no device get a latency table: from a target or another source, with a warning where a target's
was measured in another context than today's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tvmfbnet.latency.context import Context
    from tvmfbnet.latency.sources.source import LatencySource, Missing
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.space.space import NetPart, Space

TABLE_METAVAR = "FILE|simulated:..."
LogsOption = Annotated[
    Path | None,
    typer.Option(
        "--tuning-logs", help="Folder of all targets' measurements (default tuning_logs, or $TVMFBNET_TUNING_LOGS)."
    ),
]
DeviceModelOption = Annotated[
    str | None,
    typer.Option(
        "--device-model", metavar="MODEL", help="Use what was measured on this device model (default: the last one)."
    ),
]


def latency_source(
    text: str, logs: Path | None, device_model: str | None = None, space: str | None = None
) -> LatencySource:
    """The latency source that a user named with ``--target``: a target, or any other source.

    Args:
        text: a target's name, its ``.yaml`` file (either with a dtype, or ``,dtype=mixed``), the name of an imported
            table, a table's file, or ``simulated:gflops=16,gbps=8``.
        logs: folder of all targets' logs.
        device_model: use only this device model's measurements.
        space: what the user named, for advice; None where the command has none.

    Raises:
        UserError: it names nothing: no target, no measurements, no imported table.
    """
    from tvmfbnet.advice import bring_table, note
    from tvmfbnet.dtypes import is_mixed, without_mixed
    from tvmfbnet.errors import LatencyError
    from tvmfbnet.latency.repository import journal_path, table_path
    from tvmfbnet.latency.sources.mixed import MixedSource
    from tvmfbnet.latency.sources.registry import kind_of, source_of
    from tvmfbnet.latency.sources.target import TargetSource
    from tvmfbnet.targets.definition import is_target, list_targets, measured_dtype, measured_name

    if is_mixed(text):
        text = without_mixed(text)
        name = measured_name(text)
        note(target=text, named=name, space=space, tuning_logs=logs)
        return MixedSource(name, logs, device_model)
    if kind_of(text) != "target":
        return source_of(text)
    name, dtype = measured_name(text), measured_dtype(text)
    note(target=text, named=name, space=space, tuning_logs=logs)
    is_stored = journal_path(name, logs).exists() or table_path(name, logs).exists()
    if not is_stored and not is_target(text):
        raise LatencyError(
            f"nothing was measured for target {text}, and no target has that name "
            f"(there are {', '.join(list_targets())}); bring a table with {bring_table(text)}"
        )
    return TargetSource(name, logs, device_model=device_model, dtype=dtype)


def stored_table(text: str, logs: Path | None, device_model: str | None = None) -> LatencyTable:
    """What a source has, as it is: nothing predicted, nothing corrected. Arguments as :func:`latency_source`."""
    table = latency_source(text, logs, device_model).load()
    warn_of_other_context(text, table)
    return table


def space_table(
    space: Space,
    target: str | None,
    table: str | None,
    logs: Path | None,
    device_model: str | None = None,
    *,
    named: str | None = None,
    parts: Sequence[NetPart] | None = None,
    missing: Missing | None = None,
    correct: bool = True,
) -> LatencyTable:
    """The table of a space for a command, from ``--target`` or ``--latency-table``; TVM is not loaded.

    Args:
        space: the space.
        target: of :func:`latency_source`; None to use ``table``.
        table: a table's file, or ``simulated:gflops=16,gbps=8``.
        logs: folder of all targets' logs.
        device_model: use only this device model's measurements.
        named: the space as the user named it, for advice.
        parts: as in :func:`~tvmfbnet.latency.sources.source.latency_table`, and so are the others.
        missing: by default, missing parts are predicted.
        correct: whether to apply a stored correction.

    Raises:
        UserError: the source has nothing, or not enough.
    """
    from tvmfbnet.latency.sources.registry import table_source
    from tvmfbnet.latency.sources.source import Missing, latency_table

    source = latency_source(target, logs, device_model, named) if target is not None else table_source(str(table))
    made = latency_table(source, space, parts=parts, missing=missing or Missing.PREDICT, correct=correct)
    if target is not None:
        warn_of_other_context(target, made)
    return made


def warn_of_other_context(target: str, table: LatencyTable) -> None:
    """Says how the context of a target's measurements differs from the one it would be measured in today."""
    from tvmfbnet.advice import tune
    from tvmfbnet.dtypes import INT8, is_mixed, spelled_with_dtype, without_mixed
    from tvmfbnet.extras import missing
    from tvmfbnet.progress import say
    from tvmfbnet.targets.definition import is_target, load_target

    if is_mixed(target):
        target = spelled_with_dtype(without_mixed(target), INT8.name)
    if table.context is None or not is_target(target):
        return
    if missing("tune"):  # nothing can be measured here, so there is no context of today
        return
    today = _today(target, table.context)
    if today != table.context:
        say(
            f"warning: the latencies of {load_target(target).name} were measured in another context than today's "
            f"({today.difference(table.context)}); run {tune(table.context.target)} to measure again"
        )


def _today(target: str, measured: Context) -> Context:
    """The context that a target would be measured in now, as far as that is known without TVM and without a device."""
    from dataclasses import replace

    from tvmfbnet.latency.context import reported
    from tvmfbnet.rpc.host_facts import host_fingerprint
    from tvmfbnet.targets.definition import load_target, resolve, target_key
    from tvmfbnet.targets.tvm_runtime import installed_versions

    loaded, versions = load_target(target), installed_versions()
    today: dict[str, Any] = {
        "tvm_version": versions["apache-tvm"],
        "ffi_version": versions["apache-tvm-ffi"].split(".post")[0],
        "threads": loaded.threads,
    }
    if "native" not in loaded.tvm_json():  # else only TVM knows
        resolved = resolve(loaded)
        today |= {"target_key": target_key(resolved), "tvm_target": resolved.tvm_json()}
    transport = loaded.transport
    runs_here = transport.kind == "local" and not transport.emulator and not loaded.is_simulated
    if runs_here and measured.device_model:
        today["device_model"] = reported(host_fingerprint())["device_model"]
    return replace(measured, **today)
