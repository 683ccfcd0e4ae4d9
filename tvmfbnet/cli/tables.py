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


def target_table(target: str, logs: Path | None, device_model: str | None = None) -> LatencyTable:
    """The table of a target, or of what was imported under a name; TVM is not loaded.

    Args:
        target: a name or a ``.yaml`` file.
        logs: folder of all targets' logs.
        device_model: use only this device model's measurements.

    Raises:
        UserError: nothing was measured or imported, or nothing on ``device_model``.
    """
    from tvmfbnet.latency.repository import load_table
    from tvmfbnet.progress import say
    from tvmfbnet.shipped import is_file_name
    from tvmfbnet.targets.definition import list_targets, load_target, measured_name

    table = load_table(measured_name(target), logs, device_model=device_model)
    is_target = is_file_name(target) or target in list_targets()
    if table.context is not None and is_target:
        today = _today(target, table.context)
        if today != table.context:
            say(
                f"warning: the latencies of {load_target(target).name} were measured in another context than today's "
                f"({today.difference(table.context)}); run `tvmfbnet tune --target {target}` to measure anew"
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
