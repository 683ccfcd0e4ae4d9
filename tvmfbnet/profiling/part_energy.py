"""Measuring the energy of parts on the device; each is in the journal of energies before the next starts.

A sensor tells milliseconds apart, and a part takes a tenth of one. So a part runs alone for a while, rotating through
copies of its weights, so that they are as cold as in a net. What an empty call takes is taken off, and the rest shared
among the copies: the energy of a part means what its latency means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tvm.ir import IRModule

from tvmfbnet.autotune.database import TuningDatabase
from tvmfbnet.compiler.library import save_library
from tvmfbnet.compiler.lowering import build
from tvmfbnet.compiler.shapes import part_input_shape, part_input_type
from tvmfbnet.latency.context import Context
from tvmfbnet.latency.energies import EnergyMeasurement, energy_journal
from tvmfbnet.latency.measurement import OVERHEAD_PART
from tvmfbnet.profiling.device_energy import measure_energy
from tvmfbnet.profiling.device_timer import DeviceTimer
from tvmfbnet.profiling.energy import Energy
from tvmfbnet.profiling.energy_sources import SYSTEM
from tvmfbnet.profiling.parts import weight_copies
from tvmfbnet.progress import progress
from tvmfbnet.rpc.session import InputSpec
from tvmfbnet.scratch import scratch_folder
from tvmfbnet.space.space import NetPart


def measure_part_energies(
    modules: Mapping[NetPart, IRModule],
    trials: Mapping[NetPart, int],
    timer: DeviceTimer,
    database: TuningDatabase,
    journal: Path,
    context: Context,
    source: str,
    system: Path = SYSTEM,
) -> int:
    """Measures the energy of those parts that the journal has none of; returns how many.

    A part whose kernels were tuned further since counts as missing, and so does one that another source told.

    Args:
        modules: the parts, lowered.
        trials: spent on their kernels.
        timer: of the device.
        database: the schedules.
        journal: of the latencies; the energies lie beside it.
        context: of the device.
        source: the name of one of :func:`tvmfbnet.profiling.device_energy.require_source`.
        system: where this machine's sysfs is mounted.

    Raises:
        UserError: the source does not tell; what was measured before stays.
    """
    log = energy_journal(journal)
    recorded = {(item.part, item.trials) for item in log.read() if item.context == context and item.source == source}
    due = [part for part in modules if (part, trials.get(part, 0)) not in recorded]
    if not due:
        return 0
    with progress("measuring energies", len(due)) as reporter, scratch_folder() as folder:
        call, call_ms = measure_energy(timer, timer.empty_call(folder), timer.empty_image, source, system)
        log.append(_measurement(context, OVERHEAD_PART, 0, call, None, 1, call_ms))
        for part in due:
            copies = weight_copies(modules[part], timer.target)
            executable = build(modules[part], timer.target.for_tvm(), database.records, copies)
            library = save_library(executable, folder / f"{part.slug}.so", timer.target)
            image = InputSpec(part_input_shape(part, timer.target.batch), part_input_type(part, timer.target.data_type))
            energy, loop_ms = measure_energy(timer, library, image, source, system)
            library.unlink()
            log.append(_measurement(context, part, trials.get(part, 0), energy, call, copies, loop_ms))
            reporter.advance()
    return len(due)


def _measurement(
    context: Context, part: NetPart, trials: int, energy: Energy, call: Energy | None, copies: int, loop_ms: float
) -> EnergyMeasurement:
    """One part's share of what a call took; a call's own where there is no ``call`` to take off."""
    call_mj, call_spread = (0.0, 0.0) if call is None else (call.energy_mj, call.spread_mj)
    return EnergyMeasurement(
        context=context,
        part=part,
        trials=trials,
        energy_mj=max(energy.energy_mj - call_mj, 0.0) / copies,
        spread_mj=math.hypot(energy.spread_mj, call_spread) / copies,
        loop_mj=energy.energy_mj,
        call_mj=call_mj,
        copies=copies,
        latency_ms=loop_ms,
        idle_watts=energy.idle_watts,
        source=energy.source,
        rounds=energy.rounds,
        inferences=energy.inferences,
    )
