"""Timing whole nets on the device, so that the latency table's sums can be compared with them.

Nets get random weights: their latency does not depend on the values. Each is compiled with the kernels that tuning
found and timed as a package is, several times while others are compiled and timed, so that what disturbs the device for
a while is outvoted. A net is in the journal as soon as it was timed often enough.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.devices.local import reach
from tvmfbnet.devices.target import Target, resolve_native
from tvmfbnet.devices.timing import HonestTiming, pooled, take_turns
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.additivity import net_measurements
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import Measurement, net_part, summarise
from tvmfbnet.latency.store import journal_path
from tvmfbnet.progress import progress
from tvmfbnet.space.arch import Arch, format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tuning.database import existing_database
from tvmfbnet.tuning.measure import context_of
from tvmfbnet.tuning.timer import device_timer
from tvmfbnet.tuning.trials import TrialLog


def measure_nets(space: Space, target: Target, archs: Sequence[Arch], root: Path | None = None) -> dict[str, float]:
    """Latency of whole nets on the device by canonical arch string, milliseconds, call overhead included.

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
    held = {name: item.latency_ms for name, item in stored.items() if item.trials == trials}
    due = [name for name in by_name if name not in held]
    if due:
        with (
            reach(target) as endpoint,
            device_timer(target, endpoint) as timer,
            TemporaryDirectory(prefix="tvmfbnet-") as scratch,
            progress("timing whole nets", len(by_name), done=len(by_name) - len(due)) as reporter,
        ):
            overhead = timer.overhead_ms()
            folders = {name: Path(scratch) / str(number) for number, name in enumerate(due)}
            packages = (
                compile_net(untrained_net(by_name[name], space), target, database, folders[name]) for name in due
            )
            visits: dict[str, list[HonestTiming]] = {name: [] for name in due}
            for package, last in take_turns(packages, target.timing.visits):
                name = package.arch
                visits[name].append(timer.steadily(package.library, package.input_shape))
                if last:
                    timing = pooled(visits.pop(name))
                    item = _measurement(name, space, target, timing, trials, overhead, timer.fingerprint)
                    journal.append(item)
                    held[name] = item.latency_ms
                    shutil.rmtree(package.folder)
                    reporter.advance()
    return {name: held[name] for name in by_name}


def _measurement(
    arch: str,
    space: Space,
    target: Target,
    timing: HonestTiming,
    trials: int,
    overhead_ms: float,
    fingerprint: dict[str, Any],
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
            "arch": arch,
            "space": space.name,
        }
    )
