"""Timing one net of a tuned space against its latency target, in turn with the device's speed factor.

Before training the net has random weights, as latency does not depend on them; after training its package is timed.
"""

from __future__ import annotations

from pathlib import Path

from tvmfbnet.advice import tune
from tvmfbnet.autotune.database import TuningDatabase, database_of, existing_database
from tvmfbnet.autotune.database_folders import TRIALS
from tvmfbnet.autotune.trial_log import TrialLog
from tvmfbnet.deploy.bench import BenchResult, bench_package
from tvmfbnet.deploy.description import PredictedEnergy
from tvmfbnet.deploy.package import Float32Units, Package, compile_net, random_images, untrained_net
from tvmfbnet.deploy.parity import LabelledImages, certify
from tvmfbnet.dtypes import FLOAT32, MAX_ACCURACY_LOSS, MIXED
from tvmfbnet.errors import LatencyError
from tvmfbnet.files import make_folder
from tvmfbnet.latency.journal import Journal
from tvmfbnet.latency.lock import target_lock
from tvmfbnet.latency.measurement import net_part
from tvmfbnet.latency.mixed import ChosenDtypes
from tvmfbnet.latency.origin import NO_DEVICE, SIMULATED
from tvmfbnet.latency.repository import journal_path, measured_table, target_folder
from tvmfbnet.latency.sources.mixed import MixedSource
from tvmfbnet.latency.sources.source import latency_table
from tvmfbnet.latency.sources.target import TargetSource
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.network import ArchNet
from tvmfbnet.profiling.device_timer import device_timer
from tvmfbnet.profiling.net_latency import NetLatency, measure_latency
from tvmfbnet.profiling.parts import context_of, measurement
from tvmfbnet.profiling.speed_probe import SpeedProbe, can_probe
from tvmfbnet.progress import say, step
from tvmfbnet.provisioning.loopback import connect_device
from tvmfbnet.rpc.device_context import ask_context
from tvmfbnet.run_files import LatencyOriginRecord
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.space import Space, content_key
from tvmfbnet.targets.definition import ResolvedTarget, Target, in_dtype, resolve


def time_untrained(
    arch: Arch,
    space: Space,
    target: Target,
    target_ms: float | None = None,
    root: Path | None = None,
    mixed: bool = False,
) -> NetLatency:
    """Compiles an arch with random weights and times it; the latency as measured goes to the journal.

    Args:
        arch: the net.
        space: its space.
        target: the target, as its file says.
        target_ms: the latency target; the net is timed again while the verdict is unclear.
        root: folder of all targets' logs.
        mixed: whether each unit is in float32 or int8, whichever makes the net fastest; the target's dtype is int8.

    Raises:
        LatencyError: nothing was tuned for the target.
        DeviceError: the device went away and did not come back.
    """
    target = resolve(target)
    journal, name = Journal(journal_path(target.name, root)), format_arch(arch, space)
    with (
        target_lock(make_folder(target_folder(target.name, root))),
        scratch_folder() as folder,
        connect_device(target) as connected,
    ):
        context, endpoint = ask_context(target, connected)
        database = database_of(context, root)
        if database is None:
            raise LatencyError(f"nothing was tuned for target {target.name} yet: run {tune(target.name)} first")
        with step("compiling the found net"):
            images, net = random_images(space, target.data_type), untrained_net(arch, space)
            _, float32 = chosen_dtypes(arch, space, target, root) if mixed else (None, None)
            package = compile_net(net, target, database, folder / "package", images=images, float32=float32)
        probe = _probe(arch, space, target, database, measured_table(journal.read(), context), folder)
        with device_timer(target, endpoint) as timer:
            overhead = timer.overhead_ms()
            latency = measure_latency(package.library, package.input_shape, timer, target_ms, probe, choosing=True)
            speed = latency.speed.value if latency.speed is not None and latency.speed.known else None
            trials = sum(TrialLog(database.folder / TRIALS).spent.values())
            common = {"part": net_part(space), "trials": trials, "pace": speed}
            common |= {"space": space.name, "space_key": content_key(space)}
            if mixed:  # no net of int8: sums of int8's cells are not compared with it
                common["dtype"] = MIXED
            journal.append(measurement(timer, latency.whole, overhead, arch=name, **common))
    _say_latency(name, latency)
    return latency


def with_prediction(
    package: Package, arch: Arch, space: Space, target: ResolvedTarget, root: Path | None = None
) -> Package:
    """The package with the net's latency by the target's latency table, and where that comes from; as it is without."""
    try:
        table = latency_table(TargetSource(target.name, root, context_of(target)), space, parts=space.parts_of(arch))
    except LatencyError:
        return package
    return predicted_by(package, table, arch, space)


def predicted_by(package: Package, table: LatencyTable, arch: Arch, space: Space) -> Package:
    """The package with the net's latency by a table, and where the table's latencies come from."""
    source = LatencyOriginRecord(**table.origin.to_dict())
    energy = table.arch_energy(arch, space)
    told = {"energy_source": table.energies.source}
    predicted = None if energy is None else PredictedEnergy(energy_mj=energy[0], energy_spread_mj=energy[1], **told)
    return package.with_description(
        predicted_ms=table.arch_ms(arch, space), predicted_energy=predicted, latency_source=source
    )


def chosen_dtypes(
    arch: Arch, space: Space, target: ResolvedTarget, root: Path | None = None, device_model: str | None = None
) -> tuple[ChosenDtypes, Float32Units]:
    """The dtypes of a net's units with which it is fastest on a target, and what compiling it in these needs.

    Args:
        arch: the net.
        space: its space.
        target: in int8.
        root: folder of all targets' logs.
        device_model: measurements and schedules of this one; by default of the model measured last.

    Raises:
        LatencyError: the target was not measured in both dtypes, or conversions were not; says what to run.
    """
    single = in_dtype(target, FLOAT32.name)
    contexts = (context_of(single), context_of(target))
    chosen = MixedSource(target.name, root, device_model, contexts).fastest(arch, space)
    say(f"mixed dtypes: {chosen.describe()}")
    return chosen, Float32Units(chosen.float32, existing_database(single, root, device_model))


def with_mixed_prediction(package: Package, chosen: ChosenDtypes, target: Target) -> Package:
    """The package of a net of mixed dtypes with the latency that these were chosen by."""
    source = LatencyOriginRecord(kind=MIXED, name=target.name, simulated=target.is_simulated)
    return package.with_description(predicted_ms=chosen.latency_ms, latency_source=source)


def bench_with_probe(
    package: Package, arch: Arch, space: Space, target: ResolvedTarget, target_ms: float | None, root: Path | None
) -> BenchResult:
    """Benchmarks a package of a tuned space with the device's speed factor; arguments as :func:`time_untrained`."""
    with (
        target_lock(make_folder(target_folder(target.name, root))),
        scratch_folder() as folder,
        connect_device(target) as connected,
    ):
        context, endpoint = ask_context(target, connected)
        database, probe = database_of(context, root), None
        if database is not None:
            table = measured_table(Journal(journal_path(target.name, root)).read(), context)
            probe = _probe(arch, space, target, database, table, folder)
        result = bench_package(package, target, endpoint, 0.0, target_ms, probe)
    _say_latency(package.arch, result.net)
    return result


def certify_and_time(
    package: Package,
    net: ArchNet,
    target: ResolvedTarget,
    target_ms: float | None = None,
    images: LabelledImages | None = None,
    max_accuracy_loss: float = MAX_ACCURACY_LOSS,
) -> tuple[Package, NetLatency]:
    """Checks a package's parity on the device, times it there, and stores both in it.

    Args:
        package, net, target: as for :func:`tvmfbnet.deploy.parity.certify`.
        target_ms: the latency target.
        images, max_accuracy_loss: as for the check.

    Raises:
        ParityError: its outputs differ from PyTorch's, or it lost too much accuracy.
        DeviceError: the device went away and did not come back.
    """
    with connect_device(target) as endpoint:
        with step("checking parity with PyTorch on the device"):
            package = certify(package, net, target, endpoint, images, max_accuracy_loss)
        with device_timer(target, endpoint) as timer:
            latency = measure_latency(package.library, package.input_shape, timer, target_ms)
    return package.with_description(latency=latency.to_dict(target)), latency


def _probe(
    arch: Arch, space: Space, target: ResolvedTarget, database: TuningDatabase, table: LatencyTable, folder: Path
) -> SpeedProbe | None:
    """The net's own blocks, to be timed again; None if the table has no measured latency of them."""
    parts = space.parts_of(arch)
    return SpeedProbe([parts], target, database, table, folder) if can_probe(target, table, parts) else None


def _say_latency(name: str, latency: NetLatency) -> None:
    """Prints the latency as measured or simulated, and the speed factor beside it."""
    text = f"{name}: {latency.source} {latency.interval.describe()}"
    text += f" ({NO_DEVICE})" if latency.source == SIMULATED else ""
    say(text + (f"; speed factor {latency.speed.describe()}" if latency.speed is not None else ""))
