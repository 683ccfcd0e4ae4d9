"""What templates know about CPUs and about GPUs, behind one interface: their knobs, features, and rules of thumb.

Plain data, no TVM: the cost model and the search take a kernel's shape and a machine, whichever it is.
"""

from __future__ import annotations

import math
from typing import Any

from tvmfbnet.autotune import features as cpu_features
from tvmfbnet.autotune.cpu_space import all_knobs
from tvmfbnet.autotune.cycles import cycles_per_product
from tvmfbnet.autotune.features import load_slots, loads_per_product, parallel_share
from tvmfbnet.autotune.gpu_knobs import VERSION_FIELD, GpuKnobs, gpu_knobs_of
from tvmfbnet.autotune.gpu_model import GpuModel, slowness
from tvmfbnet.autotune.gpu_space import FEATURES as GPU_FEATURES
from tvmfbnet.autotune.gpu_space import gpu_features, gpu_ways, has_template
from tvmfbnet.autotune.kernel_shape import KernelShape
from tvmfbnet.autotune.knobs import Knobs
from tvmfbnet.autotune.registers import Registers, accumulators

# Of logarithms of time as scores, so that what a search adds at random, up to 0.3, is a tenth of the time.
_SCALE = 3.0

Machine = Registers | GpuModel
AnyKnobs = Knobs | GpuKnobs


def is_templated(shape: KernelShape, machine: Machine) -> bool:
    """Whether a template schedules a kernel of this shape on this machine."""
    return isinstance(machine, Registers) or has_template(shape)


def ways_of(shape: KernelShape, machine: Machine) -> list[Any]:
    """Every sensible way to schedule a kernel: knobs of the machine's kind."""
    return all_knobs(shape, machine) if isinstance(machine, Registers) else gpu_ways(shape, machine)


def feature_count(machine: Machine) -> int:
    """How many features a candidate has."""
    return len(cpu_features.FEATURES if isinstance(machine, Registers) else GPU_FEATURES)


def features_of(shape: KernelShape, knobs: AnyKnobs, machine: Machine) -> list[float]:
    """Features of a candidate for the cost model.

    Raises:
        TypeError: the knobs are not of the machine's kind.
    """
    if isinstance(machine, Registers) and isinstance(knobs, Knobs):
        return cpu_features.features(shape, knobs, machine)
    if isinstance(machine, GpuModel) and isinstance(knobs, GpuKnobs):
        return gpu_features(shape, knobs, machine)
    raise TypeError(f"{type(knobs).__name__} are no knobs of {type(machine).__name__}")


def heuristic(shape: KernelShape, knobs: AnyKnobs, machine: Machine) -> float:
    """A score that ranks candidates of one kernel before any was timed, lower is better."""
    if isinstance(machine, GpuModel) and isinstance(knobs, GpuKnobs):
        return slowness(shape, knobs, machine)
    if isinstance(machine, Registers) and isinstance(knobs, Knobs):
        return _cpu_heuristic(shape, knobs, machine)
    raise TypeError(f"{type(knobs).__name__} are no knobs of {type(machine).__name__}")


def prior(shape: KernelShape, knobs: AnyKnobs, machine: Machine) -> float:
    """The logarithm of a candidate's time, up to a constant, as known before any was timed; 0 where nothing is."""
    if not isinstance(machine, Registers) or not isinstance(knobs, Knobs) or not _has_cycles(shape, machine):
        return 0.0
    return math.log(cycles_per_product(shape, knobs, machine) * parallel_share(shape, knobs, machine))


def _has_cycles(shape: KernelShape, registers: Registers) -> bool:
    plain = shape.kind in ("conv", "depthwise", "matmul") and not shape.dot and shape.element_bytes == 4
    return plain and registers.reads_operands and registers.vector_bytes > 0


def _cpu_heuristic(shape: KernelShape, knobs: Knobs, registers: Registers) -> float:
    """Cycles where they can be estimated; else few loads per multiply-add, sums to hide its latency, busy threads."""
    if _has_cycles(shape, registers):
        return _SCALE * prior(shape, knobs, registers)
    hidden = 0.5 * (1.0 - min(1.0, accumulators(shape, knobs, registers) / 8))
    if registers.reads_operands:
        serial = loads_per_product(shape, knobs, registers) + hidden
    else:
        serial = load_slots(shape, knobs, registers) + 3.0 * hidden
    return serial * parallel_share(shape, knobs, registers)


def knobs_of(value: dict[str, Any]) -> AnyKnobs | None:
    """The knobs of a line of the log of trials; None for those of another version of the templates."""
    return gpu_knobs_of(value) if VERSION_FIELD in value else Knobs(**value)
