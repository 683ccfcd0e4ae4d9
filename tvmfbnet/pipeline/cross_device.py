"""Nets of several runs timed on the devices of all of them, and the folder that this fills. Resumable.

For each device every net is compiled with the schedules that are tuned there now, checked against PyTorch on the
device, and timed in turn with the others, as ``bench`` times one. The folder holds a file per finished timing
(``timings/KEY.json``), which is not repeated while net, target, timing policy, tuning and versions stay; the passes of
unfinished ones (``visits.jsonl``); and what came of it: ``cross_device.json`` and the page.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tvmfbnet.autotune.database import TuningDatabase, database_of, existing_database
from tvmfbnet.autotune.database_folders import TRIALS
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.deploy.description import DESCRIPTION, read_description
from tvmfbnet.deploy.in_turn import CompiledNet, time_in_turn
from tvmfbnet.deploy.package import Package, compile_net, random_images
from tvmfbnet.deploy.trial import chosen_dtypes
from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, checksum, digest, folder_lock, make_folder, read_model, write_json
from tvmfbnet.latency.cells import SIMULATED
from tvmfbnet.latency.cross_device import CrossDevice, NetTiming, RunDevice, RunNet
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.passes import PassLog
from tvmfbnet.latency.repository import target_folder
from tvmfbnet.latency.verdict import Interval
from tvmfbnet.machine import describe_machine
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.pipeline.finished_runs import FinishedRun, count_test_images, device_names
from tvmfbnet.preflight import check_all, require_writable_folder
from tvmfbnet.profiling.net_passes import NetPasses
from tvmfbnet.progress import say, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.provisioning.ready import require_ready
from tvmfbnet.rpc.device_context import ask_context, context_of
from tvmfbnet.run_files import IntervalRecord
from tvmfbnet.space.space import content_key
from tvmfbnet.targets.definition import ResolvedTarget, resolve
from tvmfbnet.training.train import load_net

TIMINGS, _PACKAGES = "timings", "packages"
_Count = Annotated[int, Field(ge=0)]


class TimingRecord(Stored):
    """The content of ``timings/KEY.json``; what ``bench`` tells besides is kept, too."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    arch: str
    target: str
    device_model: str
    source: Literal["measured", "simulated"] = "measured"
    latency_ms: Annotated[float, Field(gt=0)]
    interval: IntervalRecord
    kernels_needed: _Count
    kernels_found: _Count
    device: dict[str, Any]

    @property
    def timing(self) -> NetTiming:
        """The figures that are compared."""
        bounds = self.interval
        interval = Interval(self.latency_ms, bounds.low_ms, bounds.high_ms, bounds.visits)
        return NetTiming(interval, self.kernels_needed, self.kernels_needed - self.kernels_found)


@dataclass(frozen=True)
class PlannedTiming:
    """One net on one device.

    Attributes:
        net: name of the device that it was found for.
        device: name of the device to time it on.
        file: where the finished timing is stored.
        record: the finished timing; None if it is due.
        estimated_seconds: of compiling and timing it, by what the device's own run took; None if unknown.
    """

    net: str
    device: str
    file: Path
    record: TimingRecord | None
    estimated_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        seconds = 0.0 if self.record is not None else self.estimated_seconds
        return {"net": self.net, "device": self.device, "done": self.record is not None, "estimated_seconds": seconds}


class CrossTimings:
    """Finished runs, and the timings of their nets in one folder.

    Args:
        runs: of different devices.
        out: the folder.
        logs_root: folder of all targets' measurements.
    """

    def __init__(self, runs: Sequence[FinishedRun], out: Path, logs_root: Path | None = None) -> None:
        self.runs, self.out, self.logs_root = runs, out, logs_root
        self.names = device_names(runs)
        self.targets: tuple[ResolvedTarget, ...] = tuple(resolve(run.target) for run in runs)

    def plan(self) -> list[PlannedTiming]:
        """All timings, device by device; finished ones have their record.

        Raises:
            StorageError: a stored timing is damaged; names it.
        """
        nets = [[checksum(run.net_file), content_key(run.space)] for run in self.runs]
        return [
            PlannedTiming(own, device, file, _stored(file), run.seconds_per_net)
            for device, target, run in zip(self.names, self.targets, self.runs, strict=True)
            for conditions in [self._conditions(target, run)]
            for own, net in zip(self.names, nets, strict=True)
            for file in [self.out / TIMINGS / f"{digest([net, conditions])}.json"]
        ]

    def _conditions(self, target: ResolvedTarget, run: FinishedRun) -> dict[str, Any]:
        """What decides, besides the net, how long it takes on a device."""
        database = existing_database(target, self.logs_root)
        trials = 0 if database is None else sum(TrialLog(database.folder / TRIALS).spent.values())
        context = context_of(target).to_dict()
        return {"context": context, "timing": target.timing.model_dump(mode="json"), "trials": trials, "in": run.dtype}

    def time_due(self) -> list[PlannedTiming]:
        """Makes the timings that are due, device by device, and gives the whole plan with all records.

        Raises:
            UserError: a device or a compiler is missing, said before anything is timed.
            ParityError: a compiled net's outputs differ from PyTorch's.
            DeviceError: a device went away and did not come back.
        """
        plan = self.plan()
        due = [timing for timing in plan if timing.record is None]
        if not due:
            say(f"all {len(plan)} timings were made before")
            return plan
        needed = [run.target for name, run in zip(self.names, self.runs, strict=True) if name in _devices(due)]
        check_all(
            lambda: require_writable_folder(self.out),
            *((lambda target=target: require_ready(target)) for target in needed),
        )
        with folder_lock(self.out, "a comparison of devices"):
            for name in _devices(due):
                self._time_on(name, [timing for timing in plan if timing.device == name])
            shutil.rmtree(self.out / _PACKAGES, ignore_errors=True)
        return self.plan()

    def _time_on(self, device: str, timings: Sequence[PlannedTiming]) -> None:
        """Times what is due on one device."""
        place = self.names.index(device)
        target, mixed = self.targets[place], self.runs[place].recipe.is_mixed
        with target_lock(make_folder(target_folder(target.name, self.logs_root))), connect_device(target) as connected:
            context, endpoint = ask_context(target, connected)
            model = context.device_model or ""
            # Timings of another machine that serves the target are of no use beside those of this one.
            due = [timing for timing in timings if timing.record is None or timing.record.device_model != model]
            say(f"{device}: {len(due)} of {len(timings)} nets to time")
            database, nets = database_of(context, self.logs_root), {}
            for timing in due:
                net, _ = load_net(self.runs[self.names.index(timing.net)].net_file)
                folder = self.out / _PACKAGES / timing.file.stem
                package = _compiled_package(folder, target)
                if package is None:
                    with step(f"compiling the net of {timing.net} for {device}"):
                        package = self._compile(net, target, database, folder, mixed)
                nets[timing.file.stem] = CompiledNet(net, package)
            passes = NetPasses(PassLog(self.out / TIMINGS), {"context": context.to_dict(), "nets": sorted(nets)})
            latencies = time_in_turn(nets, target, endpoint, passes)
        for key, latency in latencies.items():
            described = nets[key].package.description
            counts = {"kernels_needed": described.kernels_needed, "kernels_found": described.kernels_found}
            about = {"arch": described.arch, "target": target.name, "device_model": model, **counts}
            values = latency.to_dict(target)
            if latency.facts.get("simulated"):  # whatever the target's file says
                values["source"] = SIMULATED
            write_json(self.out / TIMINGS / f"{key}.json", {**about, **values})
            passes.mark_recorded(key)
            shutil.rmtree(nets[key].package.folder, ignore_errors=True)
        passes.finish()

    def _compile(
        self, net: ArchNet, target: ResolvedTarget, database: TuningDatabase | None, folder: Path, mixed: bool
    ) -> Package:
        """As a run compiles its net; calibrated on random images, as latency does not depend on values."""
        _, float32 = chosen_dtypes(net.arch, net.space, target, self.logs_root) if mixed else (None, None)
        images = random_images(net.space, target.data_type)
        return compile_net(net, target, database, folder, images=images, float32=float32)

    def compared(self, plan: Sequence[PlannedTiming]) -> CrossDevice:
        """The nets, the devices and the timings of a plan that is done."""
        records = {(timing.net, timing.device): timing.record for timing in plan if timing.record is not None}
        devices: list[RunDevice] = []
        nets: list[RunNet] = []
        counts: dict[str, int | None] = {}
        for name, run in zip(self.names, self.runs, strict=True):
            if run.recipe.data not in counts:
                counts[run.recipe.data] = count_test_images(run)
            home = records[name, name]
            devices.append(run.device(name, home.source, describe_machine(home.device)))
            nets.append(run.net(name, counts[run.recipe.data]))
        return CrossDevice(tuple(devices), tuple(nets), {place: record.timing for place, record in records.items()})


def _devices(timings: Sequence[PlannedTiming]) -> list[str]:
    return list(dict.fromkeys(timing.device for timing in timings))


def _stored(file: Path) -> TimingRecord | None:
    if not file.exists():
        return None
    try:
        return read_model(file, TimingRecord)
    except StorageError as error:
        raise StorageError(f"{error}; remove it and run again") from error


def _compiled_package(folder: Path, target: ResolvedTarget) -> Package | None:
    """What an earlier call compiled here, under the same key; None where it did not come that far."""
    if not (folder / DESCRIPTION).is_file():  # which is written last
        return None
    return Package(folder, read_description(folder), target)


def values_of(compared: CrossDevice, timings: Mapping[tuple[str, str], TimingRecord]) -> dict[str, Any]:
    """The content of ``cross_device.json``, and what ``--json`` prints."""
    verdicts = {verdict.device: verdict for verdict in compared.verdicts()}
    nets = []
    for net in compared.nets:
        own = {name: value for name, value in vars(net).items() if name != "home"}
        latencies = {}
        for device in compared.devices:
            timing, record = compared.timings[net.home, device.name], timings[net.home, device.name]
            latencies[device.name] = {
                **{"latency_ms": timing.interval.value, "interval": timing.interval.to_dict()},
                **{"basis": device.basis, "kernels": timing.kernels, "untuned_kernels": timing.untuned},
                **{"time": record.model_dump().get("time", "")},
            }
        verdict = verdicts[net.home]
        nets.append(
            {
                **{"found_for": net.home, **own, "latency": latencies},
                **{"best_at_home": verdict.best_at_home, "verdict": verdict.describe()},
                "against": [vars(rivalry) for rivalry in verdict.rivalries],
            }
        )
    return {"devices": [vars(device) for device in compared.devices], "nets": nets}
