"""How commands that ask no device load a target's table: they say so where it was measured in another context."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tvmfbnet.latency.context import Context
    from tvmfbnet.latency.table import LatencyTable

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


def stored_table(
    target: str, logs: Path | None, device_model: str | None = None, space: str | None = None
) -> LatencyTable:
    """As :func:`target_table`, and in whichever context it was measured."""
    from tvmfbnet.advice import bring_table, note
    from tvmfbnet.errors import LatencyError
    from tvmfbnet.latency.repository import journal_path, load_table, table_path
    from tvmfbnet.targets.definition import list_targets, measured_name

    name = measured_name(target)
    note(target=target, named=name, space=space, tuning_logs=logs)
    known = list_targets()
    there = journal_path(name, logs).exists() or table_path(name, logs).exists()
    if not there and target not in known and not target.endswith((".yaml", ".yml")):
        raise LatencyError(
            f"nothing was measured for target {target}, and no target has that name (there are {', '.join(known)}); "
            f"bring a table with {bring_table(target)}"
        )
    return load_table(name, logs, device_model=device_model)


def target_table(
    target: str, logs: Path | None, device_model: str | None = None, space: str | None = None
) -> LatencyTable:
    """The table of a target, or of what was imported under a name; TVM is not loaded.

    Args:
        target: a name or a ``.yaml`` file.
        logs: folder of all targets' logs.
        device_model: use only this device model's measurements.
        space: what the user named, for advice; None where the command has none.

    Raises:
        UserError: nothing was measured or imported, or nothing on ``device_model``.
    """
    from tvmfbnet.advice import tune
    from tvmfbnet.progress import say
    from tvmfbnet.targets.definition import list_targets, load_target

    table = stored_table(target, logs, device_model, space)
    is_target = target.endswith((".yaml", ".yml")) or target in list_targets()
    if table.context is not None and is_target:
        today = _today(target, table.context)
        if today != table.context:
            say(
                f"warning: the latencies of {load_target(target).name} were measured in another context than today's "
                f"({today.difference(table.context)}); run {tune(table.context.target)} to measure again"
            )
    return table


def _today(target: str, measured: Context) -> Context:
    """The context that a target would be measured in now, as far as that is known without TVM and without a device."""
    from dataclasses import replace

    from tvmfbnet.latency.context import reported
    from tvmfbnet.rpc.host_facts import host_fingerprint
    from tvmfbnet.targets.definition import load_target, resolve, target_key
    from tvmfbnet.targets.tvm_runtime import installed_versions

    loaded, versions = load_target(target), installed_versions()
    known: dict[str, Any] = {
        "tvm_version": versions["apache-tvm"],
        "ffi_version": versions["apache-tvm-ffi"].split(".post")[0],
        "threads": loaded.threads,
    }
    if "native" not in loaded.tvm_json():  # else only TVM knows
        resolved = resolve(loaded)
        known |= {"target_key": target_key(resolved), "tvm_target": resolved.tvm_json()}
    transport = loaded.transport
    if transport.kind == "local" and not transport.emulator and measured.device_model:
        known["device_model"] = reported(host_fingerprint())["device_model"]
    return replace(measured, **known)
