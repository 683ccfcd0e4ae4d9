"""The report's tables: the found net in numbers, how it was made, and how to reproduce it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tvmfbnet.latency.origin import NO_DEVICE, SIMULATED, timed_of
from tvmfbnet.latency.units import Unit, unit_for
from tvmfbnet.machine import describe_machine
from tvmfbnet.report.run_data import RECIPE, RunData
from tvmfbnet.run_files import FineTuningRecord, stage_title
from tvmfbnet.search.quantities import QUANTITIES
from tvmfbnet.search.quantities.energy import ENERGY
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.space.counts import count_arch

Rows = list[tuple[str, str]]
# The share of a bound above which a constraint limits the net: nets are proposed from just below a bound.
_BINDS = 0.9
_SEEDED = ("tune", "search", "train")


def net_rows(run: RunData) -> Rows:
    """The found net in numbers, as name and value; unknown ones are left out."""
    best = (run.search or {}).get("best") or {}
    result = {name: best.get(name) for name in ("arch", "predicted_ms", "constraints")} | dict(run.result or {})
    source, timed_ms = timed_of(result)
    latencies = [result.get("predicted_ms"), timed_ms, result.get("onnxruntime_ms")]
    unit = unit_for([run.target_ms, *latencies])
    counts = count_arch(run.arch, run.space) if run.arch and run.space else None
    return _known_rows(
        ("Arch", result.get("arch")),
        (f"{metric_name(result)}, test images", _format(result.get("test_accuracy"), "{:.2%}")),
        ("Latency target", _latency(run.target_ms, unit)),
        (f"{source.capitalize()} latency", _timed(result, unit)),
        ("Predicted latency", _predicted(result, unit, run.origin is not None and run.origin.simulated)),
        ("Latencies that it was found on", run.origin and run.origin.describe()),
        ("Energy of one inference, by the latency table", _energy(run)),
        *_constraints(result, unit),
        ("Constraint that binds", binding(result.get("constraints") or [])),
        ("Correction from whole nets", (run.table.correction or None) if run.table else None),
        ("Speed factor of the device", (result.get("speed_factor") or {}).get("description")),
        ("ONNX Runtime, same device", _onnxruntime(result, unit)),
        ("Parameters", counts and f"{counts.params:,}"),
        ("MACs for one image", counts and f"{counts.macs:,}"),
        ("Parity: largest difference from PyTorch", _format(result.get("parity_error"), "{:.2g}")),
        ("Data type of weights and activations", result.get("dtype")),
        ("In float32 all the same (mixed dtypes)", ", ".join(result.get("float32_units") or []) or None),
        ("Agreement with the float32 net, test images", _format(result.get("agreement"), "{:.2%}")),
        (f"{metric_name(result)} on these images, in the dtype and in float32", _accuracies(result)),
        ("Fine-tuning in the dtype", _fine_tuning(result)),
        ("Kernels with a tuning record", _kernels(result)),
    )


def metric_name(result: Mapping[str, Any]) -> str:
    """What the task calls its accuracy."""
    return "Top-1 accuracy" if result.get("metric", "accuracy") == "accuracy" else str(result["metric"])


def _energy(run: RunData) -> str | None:
    """What the parts take together, above idle; None where the table lacks the energy of one."""
    energy = run.table.arch_energy(run.arch, run.space) if run.table and run.arch and run.space else None
    if run.table is None or energy is None:
        return None
    return (
        f"{ENERGY.text(energy[0])} (spread {ENERGY.text(energy[1], 2)}; {run.table.energies.source or 'as imported'})"
    )


def _accuracies(result: Mapping[str, Any]) -> str | None:
    shares = [result.get("accuracy"), result.get("float32_accuracy")]
    return None if None in shares else " and ".join(f"{share:.2%}" for share in shares)


def _fine_tuning(result: Mapping[str, Any]) -> str | None:
    record = result.get("fine_tuning")
    return None if record is None else FineTuningRecord.model_validate(record).describe()


def _constraints(result: Mapping[str, Any], unit: Unit) -> Rows:
    """One row per constraint: what the net has, the bound, and whether it is met; latencies in the table's unit."""
    rows = []
    for check in result.get("constraints") or []:
        quantity = QUANTITIES.get(check["quantity"])
        shown = unit.text if quantity is LATENCY else "{:g}".format if quantity is None else quantity.text
        value, bound = shown(check["value"]), shown(check["bound"])
        met = {True: "met", False: "missed", None: "undecided"}[check["met"]]
        rows.append((f"Constraint on {check['quantity']}", f"{value} of at most {bound}: {met}"))
    return rows


def binding(checks: Sequence[Mapping[str, Any]]) -> str | None:
    """The constraint that limits a net most: the one with the largest value as a share of its bound; None without any.

    Args:
        checks: what a net has of each bounded quantity (:class:`tvmfbnet.search.constraints.ConstraintCheck`).
    """
    shares = {check["quantity"]: check["value"] / check["bound"] for check in checks}
    if not shares:
        return None
    name = max(shares, key=lambda quantity: shares[quantity])
    if shares[name] < _BINDS:
        return f"none: the nearest, {name}, is at {shares[name]:.0%} of its bound"
    return f"{name}, at {shares[name]:.0%} of its bound"


def made_rows(run: RunData) -> Rows:
    """When, where and from what the run was made, and the command that reproduces it."""
    result, bench, recipe = run.result or {}, run.bench or {}, run.recipe
    facts = bench.get("device") or {}
    target = result.get("target") or (run.table.name if run.table else None) or recipe.get("target")
    data = (run.search or {}).get("data") or recipe.get("data")
    again = run.folder.with_name(f"{run.folder.resolve().name}-again")
    return _known_rows(
        ("Date", _date(bench.get("time"))),
        ("Target", target),
        ("Device", describe_machine(facts)),
        ("Threads", _format(result.get("threads"), "{}")),
        ("Machine that searched and trained", result.get("machine")),
        ("Data set", data and (str(data) + (_images(run) if run.space else ""))),
        ("Search space", run.space.name if run.space else result.get("space")),
        ("Search strategy", (run.search or {}).get("strategy")),
        ("Seeds", _seeds(recipe)),
        ("TVM", facts.get("tvm_version")),
        ("TVM target", _tvm_target(result.get("tvm_target"))),
        ("Command that does the same", shlex.join(["tvmfbnet", "run", str(run.folder / RECIPE), "--out", str(again)])),
    )


def warnings_of(run: RunData) -> list[str]:
    """The notices of the search, such as that it learned nothing; each once."""
    notices = [*((run.search or {}).get("notices") or []), *((run.result or {}).get("notices") or [])]
    return list(dict.fromkeys(str(notice["text"]) for notice in notices))


def stage_rows(run: RunData) -> Rows:
    """The stages, numbered as ``tvmfbnet run`` numbers them, and how long they took, with the sum."""
    seconds: Mapping[str, Any] = (run.result or {}).get("stage_seconds") or {}
    rows = [(stage_title(name), _duration(float(took))) for name, took in seconds.items()]
    return [*rows, ("all", _duration(float(sum(seconds.values()))))] if rows else []


def _known_rows(*rows: tuple[str, Any]) -> Rows:
    return [(name, str(value)) for name, value in rows if value]


def _format(value: object, pattern: str) -> str | None:
    return None if value is None else pattern.format(value)


def _latency(value: float | None, unit: Unit) -> str | None:
    return None if value is None else unit.text(value)


def _timed(result: Mapping[str, Any], unit: Unit) -> str | None:
    source, timed_ms = timed_of(result)
    if timed_ms is None:
        return None
    text, bounds = unit.text(timed_ms), result.get("interval")
    if source == SIMULATED:
        return f"{text} ({NO_DEVICE})"
    if not bounds:
        return text
    low, high = unit.number(bounds["low_ms"]), unit.number(bounds["high_ms"])
    return f"{text} ({low} to {high} {unit.name}, {bounds['confidence']:.0%} interval)"


def _predicted(result: Mapping[str, Any], unit: Unit, simulated: bool) -> str | None:
    predicted, share, (source, timed_ms) = result.get("predicted_ms"), result.get("measured_share"), timed_of(result)
    if predicted is None:
        return None
    notes = []
    if timed_ms:
        notes.append(f"{predicted / timed_ms - 1:+.1%} against the {source} one")
    if simulated:
        notes.append(f"from simulated blocks: {NO_DEVICE}")
    elif share is not None:
        notes.append(f"{share:.0%} of it from measured blocks")
    return unit.text(predicted) + (f" ({', '.join(notes)})" if notes else "")


def _onnxruntime(result: Mapping[str, Any], unit: Unit) -> str | None:
    other, (_, measured) = result.get("onnxruntime_ms"), timed_of(result)
    if other is None:
        return None
    return unit.text(other) + (f" (the package takes {measured / other:.2f} of its time)" if measured and other else "")


def _kernels(result: Mapping[str, Any]) -> str | None:
    tuned, needed = result.get("kernels_found"), result.get("kernels_needed")
    return None if tuned is None or needed is None else f"{tuned} of {needed}"


def _tvm_target(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _date(time: str | None) -> str | None:
    """The day and minute of an ISO time; other text as it is."""
    try:
        return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M %Z").strip() if time else None
    except ValueError:
        return time


def _images(run: RunData) -> str:
    space = run.space
    if space is None:
        return ""
    channels = f"{space.input_channels} channel{'s' if space.input_channels > 1 else ''}"
    return f" ({space.height}x{space.width}, {channels}, {space.classes} classes)"


def _seeds(recipe: Mapping[str, Any]) -> str | None:
    """The seeds of the stages, shortened if they are all the same."""
    sections = {name: recipe.get(name) for name in _SEEDED}
    seeds = {name: part["seed"] for name, part in sections.items() if isinstance(part, Mapping) and "seed" in part}
    if len(set(map(str, seeds.values()))) == 1 and len(seeds) > 1:
        return f"{next(iter(seeds.values()))} ({', '.join(seeds)})"
    return ", ".join(f"{name} {seed}" for name, seed in seeds.items()) or None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left_seconds:02d} s"
