"""The result of a run: what ``result.json`` holds, gathered from the files of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.deploy.description import COMPARED
from tvmfbnet.latency.origin import MEASURED, timed_latency
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.latency.verdict import EXIT_CODES
from tvmfbnet.machine import describe_machine
from tvmfbnet.rpc.host_facts import host_fingerprint
from tvmfbnet.run_files import read_run_file
from tvmfbnet.search.constraints import ConstraintCheck
from tvmfbnet.search.quantities.latency import LATENCY
from tvmfbnet.search.quantities.peak_memory import PEAK_MEMORY
from tvmfbnet.search.quantities.size import SIZE
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.tasks import CLASSIFICATION, task_named

# Where a package's description has what a net was searched for.
_COMPILED = {SIZE.name: "weight_bytes", PEAK_MEMORY.name: "peak_memory_bytes"}


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        values: the content of its ``result.json``: ``arch``, ``measured_ms``, ``test_accuracy``, ``verdict`` and so on.
        report: the report's page.
    """

    values: dict[str, Any]
    report: Path

    @property
    def exit_code(self) -> int:
        """0 where the latency target was met or there was none, else 3."""
        return EXIT_CODES.get(str(self.values["verdict_kind"]), 0)


def result_values(folder: Path, arch: Arch, space: Space, target: str, table: LatencyTable) -> dict[str, Any]:
    """The content of ``result.json``, but for what the run knows of its own course.

    Args:
        folder: the run's, with all stages done.
        arch: the found net.
        space: its space.
        target: name of the target.
        table: the latencies that it was found on.
    """
    from tvmfbnet.search.result import checks_of

    bench, package = read_run_file(folder, "bench.json"), read_run_file(folder, "package/package.json")
    parity, source = read_run_file(folder, "parity.json"), bench.get("source", MEASURED)
    verdict = {name: bench.get(name) for name in ("verdict", "verdict_kind", "latency_target_ms", "advice")}
    return {
        **verdict,
        **timed_latency(source, bench["latency_ms"]),
        "interval": bench["interval"],
        "noise": bench["noise"],
        "speed_factor": bench["speed_factor"],
        "measured_spread_ms": bench["spread_ms"] if source == MEASURED else None,
        "arch": package["arch"],
        "target": target,
        "space": space.name,
        "predicted_ms": table.arch_ms(arch, space),
        "onnxruntime_ms": bench["onnxruntime_ms"],
        "dtype": package["dtype"],
        **({"float32_units": package["float32_units"]} if package.get("float32_units") else {}),
        "parity_error": parity["parity_error"],
        **{name: parity[name] for name in COMPARED if parity.get(name) is not None},
        "fine_tuning": package.get("fine_tuning"),
        "task": package.get("task", CLASSIFICATION),
        "metric": task_named(package.get("task", CLASSIFICATION)).metric,
        "test_accuracy": read_run_file(folder, "train/history.json")[-1]["test_accuracy"],
        "kernels_needed": package["kernels_needed"],
        "kernels_found": package["kernels_found"],
        "measured_share": table.measured_share(arch, space),
        "latency_source": table.origin.to_dict(),
        "chosen_on_simulated": table.origin.simulated,
        "tvm_target": package["tvm_target"],
        "threads": package["threads"],
        "notices": read_run_file(folder, "search/search.json").get("notices", []),
        "constraints": [_as_measured(check, bench, package) for check in checks_of(folder, package["arch"])],
        "machine": describe_machine(host_fingerprint()),
    }


def _as_measured(check: ConstraintCheck, bench: dict[str, Any], package: dict[str, Any]) -> dict[str, Any]:
    """What the found net has of a bounded quantity.

    Latency as timed, with its verdict (null: undecided); size and peak memory as the package was compiled.
    """
    values = check.to_dict()
    compiled = package.get(_COMPILED.get(check.quantity, ""))
    if compiled is not None:
        values |= {"value": compiled, "met": compiled <= check.bound}
    if check.quantity == LATENCY.name:
        met = {"met": True, "missed": False}.get(str(bench.get("verdict_kind")))
        values |= {"value": bench["latency_ms"], "met": met}
    return values
