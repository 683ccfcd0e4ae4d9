"""The energy of a compiled function on a target's device, told by a source that this machine can read.

The device runs the function many times in a row, without a word over the network in between, while this process reads
the source before and after. So the sensor must count the device's energy: this machine's own for a local target; for a
device elsewhere a command that asks it, or the meter it is plugged into.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tvmfbnet.errors import UserError
from tvmfbnet.profiling.energy import Energy, energy_per_inference
from tvmfbnet.profiling.energy_sources import SYSTEM, EnergySource, source_named
from tvmfbnet.rpc.session import InputSpec, Session, on_random_image
from tvmfbnet.targets.definition import Target

if TYPE_CHECKING:  # loads TVM
    from tvmfbnet.profiling.device_timer import DeviceTimer

# The device is asked this often in the running half of a round.
_BATCHES = 8
_PROBED_CALLS = 3


def require_source(target: Target, text: str, system: Path = SYSTEM) -> EnergySource:
    """The source as users write it, read once.

    Args:
        target: whose device it is to tell the energy of.
        text: ``auto``, ``rapl``, ... or ``command:...`` (:mod:`tvmfbnet.profiling.energy_sources`).
        system: where this machine's sysfs is mounted.

    Raises:
        UserError: the target's device takes no energy, or the source does not count it, or is not there.
    """
    if target.is_simulated:
        raise UserError(f"target {target.name} is simulated, and a model takes no energy: leave --energy out")
    transport = target.transport
    if transport.emulator:
        raise UserError(f"target {target.name} is emulated: what this machine takes is not the device's energy")
    if transport.kind != "local" and not text.startswith("command:"):
        raise UserError(
            f"the device of target {target.name} is reached through a tracker, and its sensors are not read from here: "
            "give --energy 'command:...' that prints the joules it has taken, such as one that asks it over ssh or adb"
        )
    source = source_named(text, system)
    with source.running() as joules:
        joules()
    return source


def measure_energy(
    timer: DeviceTimer, library: Path, image: InputSpec, text: str, system: Path = SYSTEM
) -> tuple[Energy, float]:
    """The energy of one call of a library's ``main``, and its latency meanwhile in milliseconds.

    Rounds as the target's timing policy says.

    Args:
        timer: of the device.
        library: the file.
        image: the input.
        text: the source, as for :func:`require_source`.
        system: where this machine's sysfs is mounted.

    Raises:
        UserError: the source does not tell, or not that calls take more than the idle device.
        DeviceError: the device went away and did not come back.
    """
    policy = timer.target.timing
    seconds, rounds = policy.energy_seconds, policy.energy_rounds
    taken = timer.long_job(
        _take_energy, str(library), image, text, str(system), seconds, rounds, lasting=4 * seconds * rounds
    )
    if isinstance(taken, str):
        raise UserError(taken)
    measured: tuple[Energy, float] = taken
    return measured


# The rest runs in the worker process.


def _take_energy(
    session: Session, library: str, image: InputSpec, text: str, system: str, seconds: float, rounds: int
) -> tuple[Energy, float] | str:
    """The energy and latency of a call; what is wrong with the source as a text, as that is not the device's fault."""
    module = on_random_image(session, library, image)

    def mean_seconds(calls: int) -> float:
        return float(module.time_evaluator("timed", session.device, number=calls, repeat=1)().results[0])

    mean_seconds(_PROBED_CALLS)
    batch = max(1, round(seconds / _BATCHES / max(mean_seconds(_PROBED_CALLS), 1e-7)))
    latencies: list[float] = []

    def run() -> int:
        latencies.append(mean_seconds(batch))
        return batch + 1  # the evaluator makes one call more, which it does not time

    try:
        energy = energy_per_inference(run, source_named(text, Path(system)), seconds, rounds)
    except UserError as error:
        return str(error)
    return energy, 1e3 * sum(latencies) / len(latencies)
