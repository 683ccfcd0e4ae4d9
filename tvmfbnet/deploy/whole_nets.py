"""Timing whole nets on the device, to compare the latency table's sums with them.

Nets get random weights, as latency does not depend on their values. All nets are compiled first, with the tuned
kernels, and then timed in turn over several passes, so that a slow spell of the device affects all of them alike.
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
from tvmfbnet.deploy.package import compile_net, random_images, untrained_net
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import digest, make_folder
from tvmfbnet.latency.additivity import net_measurements
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.measurement import IN_NET, Measurement, net_part
from tvmfbnet.latency.passes import PassLog
from tvmfbnet.latency.repository import journal_path, measured_table, target_folder
from tvmfbnet.profiling.canary import HonestTiming, pooled
from tvmfbnet.profiling.chained_nets import ChainedNets, schedule_parts
from tvmfbnet.profiling.device_timer import ChainTiming, DeviceTimer, device_timer
from tvmfbnet.profiling.net_passes import NetPasses
from tvmfbnet.profiling.parts import measurement
from tvmfbnet.profiling.speed_probe import measure_speed_factor
from tvmfbnet.progress import progress, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import ask_context, context_of, protocol_of
from tvmfbnet.rpc.tracker import Endpoint
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.space import NetPart, Space, content_key
from tvmfbnet.targets.definition import ResolvedTarget, Target, resolve

# Nets that give the device's speed factor, and how many nets are timed per pass over those.
_SPEED_NETS, _NETS_PER_SPEED_PASS = 4, 8


def measure_nets(
    space: Space, target: Target, archs: Sequence[Arch], root: Path | None = None
) -> dict[str, Measurement]:
    """Measurements of whole nets on the device by canonical arch string, call overhead included.

    Nets already in the journal with the kernels of the latest tuning are not timed again.

    Args:
        space: the space of the archs.
        target: the target, as its file says.
        archs: the nets to time.
        root: folder of all targets' logs.

    Raises:
        LatencyError: nothing was tuned for the target: untuned nets say nothing about tuned blocks.
        StorageError: the tuned schedules are of another context.
        DeviceError: the device went away and did not come back.
    """
    target = resolve(target)
    by_name = {format_arch(arch, space): arch for arch in archs}
    recorded = _recorded(space, context_of(target), root)
    if any(name not in recorded for name in by_name):
        with target_lock(make_folder(target_folder(target.name, root))), connect_device(target) as connected:
            context, endpoint = ask_context(target, connected)
            recorded = _recorded(space, context, root)  # another process may have measured some meanwhile
            due = {name: arch for name, arch in by_name.items() if name not in recorded}
            if due:
                recorded |= _measure(space, target, due, recorded, context, endpoint, root)
    return {name: recorded[name] for name in by_name}


def _tuned(context: Context, root: Path | None) -> tuple[TuningDatabase, int]:
    """The schedules of a context and the trials spent on them."""
    database = database_of(context, root)
    if database is None:
        raise LatencyError(f"nothing was tuned for target {context.target} yet: run {tune(context.target)} first")
    return database, sum(TrialLog(database.folder / TRIALS).spent.values())


def _recorded(space: Space, context: Context, root: Path | None) -> dict[str, Measurement]:
    """The journal's measurements of whole nets with the kernels of the latest tuning."""
    trials = _tuned(context, root)[1]
    stored = net_measurements(Journal(journal_path(context.target, root)).read(), space, context)
    return {name: item for name, item in stored.items() if item.trials == trials}


def _measure(
    space: Space,
    target: ResolvedTarget,
    due: Mapping[str, Arch],
    recorded: Mapping[str, Measurement],
    context: Context,
    endpoint: Endpoint,
    root: Path | None,
) -> dict[str, Measurement]:
    """Compiles, times and records the nets that are due. The target's lock must be held."""
    database, trials = _tuned(context, root)
    journal = Journal(journal_path(target.name, root))
    # Libraries survive a stopped run; further trials may find other kernels, so they have a folder of their own.
    folder = make_folder(target_folder(target.name, root) / f"nets-{digest([context.key, trials])}")
    for other in folder.parent.glob("nets-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    libraries = _compiled(space, target, due, database, folder)
    passes = NetPasses(PassLog(journal.path), _shared(space, target, context, trials))
    for name in recorded:  # an earlier run may have been killed between journal and pass log
        passes.mark_recorded(name)
    measured: dict[str, Measurement] = {}
    with device_timer(target, endpoint) as timer, scratch_folder() as scratch:
        speed_nets = None
        if protocol_of(target) == IN_NET and not target.is_simulated:  # whose speed never changes
            passes.speed_archs = passes.speed_archs or list(due)[:_SPEED_NETS]
            speed_parts = [space.parts_of(parse_arch(name, space)) for name in passes.speed_archs]
            with step("compiling blocks for the device's speed factor", patience=1.0):
                speed_nets = _speed_nets(speed_parts, target, database, scratch / "speed.so", passes.speed_passes())
        with step("timing an empty call", patience=1.0):
            overhead = timer.overhead_ms()
        shape = (target.batch, space.input_channels, space.height, space.width)
        timings = _in_turn(libraries, shape, timer, speed_nets, passes)
        speed_factor = None
        if speed_nets is not None:
            speed_factor = measure_speed_factor(speed_nets, measured_table(journal.read(), context), timer)
        common = {"part": net_part(space), "trials": trials, "pace": speed_factor}
        common |= {"space": space.name, "space_key": content_key(space)}
        for name, timing in timings.items():
            measured[name] = measurement(timer, timing, overhead, arch=name, **common)
            journal.append(measured[name])
            passes.mark_recorded(name)
        passes.finish()
    for library in libraries.values():
        library.unlink(missing_ok=True)
    return measured


def _compiled(
    space: Space, target: ResolvedTarget, archs: Mapping[str, Arch], database: TuningDatabase, folder: Path
) -> dict[str, Path]:
    """Libraries of nets with random weights; those that an earlier run left in ``folder`` are reused."""
    libraries = {name: folder / f"{digest([content_key(space), name])}.so" for name in archs}
    missing = [name for name, library in libraries.items() if not library.exists()]
    with progress("compiling whole nets", len(archs), done=len(archs) - len(missing)) as reporter:
        for name in missing:
            with scratch_folder(folder) as scratch:
                net, images = untrained_net(archs[name], space), random_images(space, target.data_type)
                package = compile_net(net, target, database, scratch, images=images)
                package.library.replace(libraries[name])
            reporter.advance()
    return libraries


def _speed_nets(
    nets: Sequence[Sequence[NetPart]],
    target: ResolvedTarget,
    database: TuningDatabase,
    library: Path,
    passes: Sequence[ChainTiming],
) -> ChainedNets:
    parts = list(dict.fromkeys(part for net in nets for part in net))
    scheduled = schedule_parts(parts, target, database)
    return ChainedNets(nets, scheduled, target, library, passes)


def _shared(space: Space, target: ResolvedTarget, context: Context, trials: int) -> dict[str, Any]:
    """What passes over whole nets must share to be pooled."""
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
    speed_nets: ChainedNets | None,
    passes: NetPasses,
) -> dict[str, HonestTiming]:
    """Times nets in turn, in as many passes as the target's timing policy says; regularly, the speed nets as well.

    Each pass is on disk before the next one starts; passes of an earlier run are not repeated.
    """
    count = timer.target.timing.visits
    done = sum(min(count, len(passes.of(name))) for name in libraries)
    with progress("timing whole nets", count * len(libraries), done=done) as reporter:
        for turn in range(count):
            for number, (name, library) in enumerate(libraries.items()):
                if len(passes.of(name)) > turn:
                    continue
                if speed_nets is not None and (number % _NETS_PER_SPEED_PASS == 0 or not speed_nets.pass_count):
                    passes.add_speed_pass(speed_nets.run_pass(timer))
                passes.add(name, timer.steadily(library, shape))
                reporter.advance()
    return {name: pooled(passes.of(name)) for name in libraries}
