"""Timing whole nets on the device, so that the latency table's sums can be compared with them.

Nets get random weights: their latency does not depend on the values. All are compiled first, with the kernels that
tuning found, and then timed in turn, several times: so a device that is slower for a while is slower for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tvmfbnet.advice import tune
from tvmfbnet.autotune.database import TuningDatabase, database_of
from tvmfbnet.autotune.database_folders import TRIALS
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.deploy.package import compile_net, untrained_net
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import digest, make_folder
from tvmfbnet.latency.additivity import net_measurements
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.measurement import IN_NET, Measurement, net_part
from tvmfbnet.latency.passes import VisitLog
from tvmfbnet.latency.repository import journal_path, measured_table, target_folder
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.chained_nets import ChainedNets, schedule_parts
from tvmfbnet.profiling.device_timer import ChainTiming, DeviceTimer, device_timer
from tvmfbnet.profiling.net_passes import NetVisits
from tvmfbnet.profiling.parts import measurement
from tvmfbnet.profiling.speed_probe import pace_of
from tvmfbnet.progress import progress, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import ask_context, context_of, protocol_of
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.space import NetPart, Space, content_key
from tvmfbnet.targets.definition import ResolvedTarget, Target, resolve

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
        StorageError: what was tuned was tuned in another context.
        DeviceError: the device went away and did not come back.
    """
    target = resolve(target)
    by_name = {format_arch(arch, space): arch for arch in archs}
    held = _held(space, context_of(target), root)
    if any(name not in held for name in by_name):
        with target_lock(make_folder(target_folder(target.name, root))), connect_device(target) as found:
            context, endpoint = ask_context(target, found)
            held = _held(space, context, root)  # what another process measured meanwhile is not measured again
            due = {name: arch for name, arch in by_name.items() if name not in held}
            if due:
                held |= _measure(space, target, due, held, context, endpoint, root)
    return {name: held[name] for name in by_name}


def _tuned(context: Context, root: Path | None) -> tuple[TuningDatabase, int]:
    """The schedules of a context, and how many trials they took."""
    database = database_of(context, root)
    if database is None:
        raise LatencyError(f"nothing was tuned for target {context.target} yet: run {tune(context.target)} first")
    return database, sum(TrialLog(database.folder / TRIALS).spent.values())


def _held(space: Space, context: Context, root: Path | None) -> dict[str, Measurement]:
    """What the journal holds of whole nets with the kernels of the latest tuning."""
    trials = _tuned(context, root)[1]
    stored = net_measurements(Journal(journal_path(context.target, root)).read(), space, context)
    return {name: item for name, item in stored.items() if item.trials == trials}


def _measure(
    space: Space,
    target: ResolvedTarget,
    due: Mapping[str, Arch],
    held: Mapping[str, Measurement],
    context: Context,
    endpoint: Endpoint,
    root: Path | None,
) -> dict[str, Measurement]:
    """Compiles, times and records nets that are not held. The target's lock must be held."""
    database, trials = _tuned(context, root)
    journal = Journal(journal_path(target.name, root))
    # Kept where a run that is stopped finds them again; other trials may have found other kernels.
    folder = make_folder(target_folder(target.name, root) / f"nets-{digest([context.key, trials])}")
    for other in folder.parent.glob("nets-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    libraries = _compiled(space, target, due, database, folder)
    visits = NetVisits(VisitLog(journal.path), _shared(space, target, context, trials))
    for name in held:  # a run was killed between the journal and here
        visits.recorded(name)
    found: dict[str, Measurement] = {}
    with device_timer(target, endpoint) as timer, scratch_folder() as scratch:
        pace_nets = None
        if protocol_of(target) == IN_NET:
            visits.pace_archs = visits.pace_archs or list(due)[:_PACE_NETS]
            some = [space.parts_of(parse_arch(name, space)) for name in visits.pace_archs]
            with step("compiling blocks for the device's speed factor", patience=1.0):
                pace_nets = _pace_nets(some, target, database, scratch / "pace.so", visits.pace())
        with step("timing an empty call", patience=1.0):
            overhead = timer.overhead_ms()
        shape = (1, space.input_channels, space.height, space.width)
        timings = _in_turn(libraries, shape, timer, pace_nets, visits)
        pace = None if pace_nets is None else pace_of(pace_nets, measured_table(journal.read(), context), timer)
        common = {"part": net_part(space), "trials": trials, "pace": pace}
        common |= {"space": space.name, "space_key": content_key(space)}
        for name, timing in timings.items():
            found[name] = measurement(timer, timing, overhead, arch=name, **common)
            journal.append(found[name])
            visits.recorded(name)
        visits.finish()
    for library in libraries.values():
        library.unlink(missing_ok=True)
    return found


def _compiled(
    space: Space, target: ResolvedTarget, archs: Mapping[str, Arch], database: TuningDatabase, folder: Path
) -> dict[str, Path]:
    """Libraries of nets with random weights; those that an earlier run left in ``folder`` are taken as they are."""
    libraries = {name: folder / f"{digest([content_key(space), name])}.so" for name in archs}
    missing = [name for name, library in libraries.items() if not library.exists()]
    with progress("compiling whole nets", len(archs), done=len(archs) - len(missing)) as reporter:
        for name in missing:
            with scratch_folder(folder) as scratch:
                package = compile_net(untrained_net(archs[name], space), target, database, scratch)
                package.library.replace(libraries[name])
            reporter.advance()
    return libraries


def _pace_nets(
    nets: Sequence[Sequence[NetPart]],
    target: ResolvedTarget,
    database: TuningDatabase,
    library: Path,
    visits: Sequence[ChainTiming],
) -> ChainedNets:
    parts = list(dict.fromkeys(part for net in nets for part in net))
    scheduled = schedule_parts(parts, target.for_tvm(), database)
    return ChainedNets(nets, scheduled, target, library, visits)


def _shared(space: Space, target: ResolvedTarget, context: Context, trials: int) -> dict[str, Any]:
    """What visits of whole nets must have in common to be pooled."""
    return {
        "space": content_key(space),
        "context": context.to_dict(),
        "timing": target.timing.model_dump(mode="json"),
        "trials": trials,
    }


def _in_turn(
    libraries: Mapping[str, Path],
    shape: tuple[int, ...],
    timer: DeviceTimer,
    pace_nets: ChainedNets | None,
    visits: NetVisits,
) -> dict[str, HonestTiming]:
    """Times nets in turn, so often as the target's ``timing.visits`` says; every now and then, the pace.

    Each visit is on the disk before the next one; those that an earlier run made are not made again.
    """
    count = timer.target.timing.visits
    done = sum(min(count, len(visits.of(name))) for name in libraries)
    with progress("timing whole nets", count * len(libraries), done=done) as reporter:
        for turn in range(count):
            for number, (name, library) in enumerate(libraries.items()):
                if len(visits.of(name)) > turn:
                    continue
                if pace_nets is not None and (number % _NETS_A_PACE == 0 or not pace_nets.visits):
                    visits.add_pace(pace_nets.visit(timer))
                visits.add(name, timer.steadily(library, shape))
                reporter.advance()
    return {name: pooled(visits.of(name)) for name in libraries}
