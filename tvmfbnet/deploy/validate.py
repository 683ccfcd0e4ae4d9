"""Timing whole nets on the device, so that the latency table's sums can be compared with them.

Nets get random weights: their latency does not depend on the values. Each is compiled with the kernels that tuning
found and timed as a package is; every measurement is in the journal before the next net starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.devices.local import reach
from tvmfbnet.devices.target import Target, resolve_native
from tvmfbnet.errors import LatencyError
from tvmfbnet.latency.additivity import net_measurements
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.measurement import Measurement, net_part, summarise
from tvmfbnet.latency.store import journal_path, target_folder
from tvmfbnet.progress import progress
from tvmfbnet.space.arch import Arch, format_arch
from tvmfbnet.space.space import Space
from tvmfbnet.tuning.database import TuningDatabase, database_folder
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
    folder = database_folder(target_folder(target.name, root))
    if not TuningDatabase.exists(folder):
        raise LatencyError(f"nothing was tuned for target {target.name} yet: run `tvmfbnet tune` first")
    database = TuningDatabase(folder, repair=True)
    trials = sum(TrialLog(folder / "trials.jsonl").spent.values())
    journal = Journal(journal_path(target.name, root))
    names = list(dict.fromkeys(format_arch(arch, space) for arch in archs))
    by_name = {format_arch(arch, space): arch for arch in archs}
    stored = net_measurements(journal.read(), space, context_of(target))
    held = {name: item.latency_ms for name, item in stored.items() if item.trials == trials}
    due = [name for name in names if name not in held]
    if due:
        with (
            reach(target) as endpoint,
            device_timer(target, endpoint) as timer,
            progress("timing whole nets", len(names), done=len(names) - len(due)) as reporter,
        ):
            overhead = timer.overhead_ms()
            for name in due:
                with TemporaryDirectory(prefix="tvmfbnet-") as scratch:
                    package = compile_net(untrained_net(by_name[name], space), target, database, Path(scratch))
                    samples = timer.time(package.library, package.input_shape)
                item = _measurement(name, space, target, samples, trials, overhead, timer.fingerprint)
                journal.append(item)
                held[name] = item.latency_ms
                reporter.advance()
    return {name: held[name] for name in names}


def _measurement(
    arch: str,
    space: Space,
    target: Target,
    samples: Sequence[float],
    trials: int,
    overhead_ms: float,
    fingerprint: dict[str, Any],
) -> Measurement:
    return Measurement.model_validate(
        {
            **summarise(samples),
            **vars(context_of(target)),
            "part": net_part(space),
            "trials": trials,
            "overhead_ms": overhead_ms,
            "fingerprint": fingerprint,
            "arch": arch,
            "space": space.name,
        }
    )
