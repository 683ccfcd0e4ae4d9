"""Timing whole nets on the device, so that the latency table's sums can be compared with them.

Nets get random weights: their latency does not depend on the values. All are compiled first, with the kernels that
tuning found, and then timed in turn, several times: so a device that is slower for a while is slower for all of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tvmfbnet.deploy.pace import PaceNets
from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.devices.local import reach
from tvmfbnet.devices.target import Target, resolve_native
from tvmfbnet.devices.timing import HonestTiming, pooled
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import make_folder
from tvmfbnet.latency.additivity import net_measurements
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import IN_NET, Measurement, net_part, summarise
from tvmfbnet.latency.store import journal_path, measured_table, target_folder
from tvmfbnet.progress import progress
from tvmfbnet.space.arch import Arch, format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tuning.database import TuningDatabase, existing_database
from tvmfbnet.tuning.measure import context_of, protocol_of
from tvmfbnet.tuning.timer import DeviceTimer, device_timer
from tvmfbnet.tuning.trials import TrialLog

# So many of the nets tell the device's pace, once for every so many nets that are timed.
_PACE_NETS, _NETS_A_PACE = 4, 8


def measure_nets(
    space: Space, target: Target, archs: Sequence[Arch], root: Path | None = None
) -> dict[str, Measurement]:
    """Measurements of whole nets on the device by canonical arch string, call overhead included.

    Nets that the journal holds with the kernels of the latest tuning are not timed again.

    Args:
        space: the space of the archs.
        target: the target, as its file says.
        archs: which nets.
        root: folder of all targets' logs.

    Raises:
        LatencyError: nothing was tuned for the target: untuned nets say nothing about tuned blocks.
        DeviceError: the device went away and did not come back.
    """
    target = resolve_native(target)
    database = existing_database(target.name, root)
    if database is None:
        raise LatencyError(f"nothing was tuned for target {target.name} yet: run `tvmfbnet tune` first")
    trials = sum(TrialLog(database.folder / "trials.jsonl").spent.values())
    journal = Journal(journal_path(target.name, root))
    by_name = {format_arch(arch, space): arch for arch in archs}
    stored = net_measurements(journal.read(), space, context_of(target))
    held = {name: item for name, item in stored.items() if item.trials == trials}
    due = {name: arch for name, arch in by_name.items() if name not in held}
    if due:
        # Kept where a run that is stopped finds them again; other trials may have found other kernels.
        folder = make_folder(target_folder(target.name, root) / f"nets-{trials}")
        for other in folder.parent.glob("nets-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        libraries = _compiled(space, target, due, database, folder)
        with reach(target) as endpoint, device_timer(target, endpoint) as timer, TemporaryDirectory() as scratch:
            pace_nets = None
            if protocol_of(target) == IN_NET:
                some = [space.parts_of(arch) for arch in list(due.values())[:_PACE_NETS]]
                pace_nets = PaceNets(some, target, database, Path(scratch) / "pace.so")
            overhead = timer.overhead_ms()
            shape = (1, space.input_channels, space.height, space.width)
            timings = _in_turn(libraries, shape, timer, pace_nets)
            table = measured_table(journal, context_of(target), protocol_of(target))
            pace = None if pace_nets is None else pace_nets.pace(table)
            for name, timing in timings.items():
                held[name] = _measurement(name, space, target, timing, trials, overhead, timer.fingerprint, pace)
                journal.append(held[name])
        for library in libraries.values():
            library.unlink(missing_ok=True)
    return {name: held[name] for name in by_name}


def _compiled(
    space: Space, target: Target, archs: Mapping[str, Arch], database: TuningDatabase, folder: Path
) -> dict[str, Path]:
    """Libraries of nets with random weights; those that an earlier run left in ``folder`` are taken as they are."""
    told = f"{json.dumps(space.to_dict(), sort_keys=True)} {target.tvm_json()}"
    libraries = {name: folder / f"{hashlib.sha256(f'{told} {name}'.encode()).hexdigest()[:16]}.so" for name in archs}
    missing = [name for name, library in libraries.items() if not library.exists()]
    with progress("compiling whole nets", len(archs), done=len(archs) - len(missing)) as reporter:
        for name in missing:
            with TemporaryDirectory(dir=folder) as scratch:
                package = compile_net(untrained_net(archs[name], space), target, database, Path(scratch))
                package.library.replace(libraries[name])
            reporter.advance()
    return libraries


def _in_turn(
    libraries: Mapping[str, Path], shape: tuple[int, ...], timer: DeviceTimer, pace_nets: PaceNets | None
) -> dict[str, HonestTiming]:
    """Times nets in turn, so often as the target's ``timing.visits`` says; every now and then, the pace."""
    visits: dict[str, list[HonestTiming]] = {name: [] for name in libraries}
    count = timer.target.timing.visits
    with progress("timing whole nets", count * len(libraries)) as reporter:
        for _ in range(count):
            for number, (name, library) in enumerate(libraries.items()):
                if pace_nets is not None and number % _NETS_A_PACE == 0:
                    pace_nets.visit(timer)
                visits[name].append(timer.steadily(library, shape))
                reporter.advance()
    return {name: pooled(timings) for name, timings in visits.items()}


def _measurement(
    arch: str,
    space: Space,
    target: Target,
    timing: HonestTiming,
    trials: int,
    overhead_ms: float,
    fingerprint: dict[str, Any],
    pace: float | None,
) -> Measurement:
    return Measurement.model_validate(
        {
            **summarise(timing.sample.repeats_ms),
            **vars(context_of(target)),
            "part": net_part(space),
            "trials": trials,
            "overhead_ms": overhead_ms,
            "fingerprint": fingerprint,
            "canary_ratio": timing.canary_ratio,
            "steady": timing.steady,
            "tries": timing.tries,
            "outliers": timing.sample.outliers,
            "pace": pace,
            "arch": arch,
            "space": space.name,
        }
    )
