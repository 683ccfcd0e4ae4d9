"""What schedules need to know about a GPU, and a static model that ranks them before anything was timed.

The model counts what one thread of a kernel multiplies, loads and keeps in registers, as ARM's Mali Offline Compiler
does for a finished kernel, and takes the slower of the arithmetic and the load/store unit. It orders first candidates
only: as soon as trials were timed, the cost model that learns from them ranks.

Sources. ``[D]`` ARM's GPU datasheet (2021): warp width, threads and float32 operations per clock of a core. ``[G]``
ARM's OpenCL developer guide for Mali (101574, sections 9.2 and 9.6): a thread has 64 32-bit registers and spills beyond
them, arithmetic is scalar and only memory accesses gain from vectors, work groups of 64 are what drivers choose. From
memory, without a document at hand: full occupancy up to 32 registers and half beyond, one line of 64 bytes a cycle for
a warp's access, and all figures of Adreno and Apple GPUs, which are round numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tvmfbnet.autotune.gpu_knobs import GpuKnobs, thread_work
from tvmfbnet.autotune.kernel_shape import KernelShape

# Bytes that the load/store unit serves in one cycle if all of a warp's accesses lie in them.
_LINE = 64
# Instructions of a loop's own: counter, comparison, addresses. A padded load tests whether it is inside the image.
_LOOP, _TEST = 4.0, 3.0
# Registers of addresses and counters.
_OWN = 8
# A thread that spills takes about this many times as long.
_SPILL = 4.0
# A core's threads hide latency well when there are several times this share of the most it can hold.
_FEW = 1 / 8


@dataclass(frozen=True)
class GpuModel:
    """A GPU as schedules see it.

    Attributes:
        most_threads: that a work group may have.
        warp: threads that execute together.
        products: float32 multiply-adds of a core per cycle.
        core_threads: threads that a core holds if none needs more than ``free_registers``.
        cores: shader cores; those of a mid-range phone.
        free_registers: 32-bit registers that a thread may use at full occupancy; beyond, half as many threads fit.
        most_registers: that a thread may use before it spills.
    """

    most_threads: int = 256
    warp: int = 16
    products: int = 32
    core_threads: int = 1024
    cores: int = 7
    free_registers: int = 32
    most_registers: int = 64


# Of TVM's `device` names and kinds. Mali: a Valhall G77 [D] of seven cores, the fewest that it comes with.
MODELS = {
    "mali": GpuModel(),
    "adreno": GpuModel(warp=64, products=128, core_threads=2048, cores=2, free_registers=48, most_registers=128),
    "metal": GpuModel(warp=32, products=128, core_threads=1024, cores=4, free_registers=104, most_registers=128),
}
_UNKNOWN = GpuModel()


def gpu_model(device: str, kind: str, most_threads: int) -> GpuModel:
    """The model of a GPU; an unknown one is taken for a Mali.

    Args:
        device: TVM's name of the device, such as ``mali``.
        kind: of the TVM target.
        most_threads: that the target allows in a work group.
    """
    model = MODELS.get(device) or MODELS.get(kind) or _UNKNOWN
    return replace(model, most_threads=most_threads)


def registers_used(shape: KernelShape, knobs: GpuKnobs) -> int:
    """32-bit registers of a thread: sums, one step's inputs and weights, addresses."""
    work = thread_work(shape, knobs)
    return work.sums * max(1, shape.sum_bytes // 4) + math.ceil(work.buffered * shape.element_bytes / 4) + _OWN


def _lines(threads: int, apart: float, read: float) -> float:
    """Lines that neighbouring threads touch which each read ``read`` bytes, ``apart`` bytes from their neighbours."""
    return max(1.0, min(threads * math.ceil(read / _LINE), threads * apart / _LINE))


def load_cycles(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> float:
    """Cycles of the load/store unit for one warp."""
    work, size = thread_work(shape, knobs), shape.element_bytes
    deep, wide = _neighbours(knobs, model)
    vector = _lines(deep, knobs.channels * size, knobs.lanes * size)  # of one pixel's channels, or of weights
    per_channel = shape.kind in ("depthwise", "pool", "move")
    read = vector if per_channel else 1.0
    inputs = shape.channels if per_channel else shape.reduction * shape.channels / max(shape.group, 1)
    pixels = _lines(wide, knobs.columns * shape.stride * inputs * size, work.input_lanes * size)
    stored = wide * vector
    return work.input_loads * read * pixels + work.weight_loads * vector + work.other_accesses * stored


def _neighbours(knobs: GpuKnobs, model: GpuModel) -> tuple[int, int]:
    """How many threads of a warp are next to each other along the channels and along the pixels."""
    inner = knobs.vectors if knobs.across == "channels" else knobs.pixels
    first = min(inner, model.warp)
    second = max(1, min(knobs.threads, model.warp) // first)
    return (first, second) if knobs.across == "channels" else (second, first)


def arithmetic_cycles(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> float:
    """Cycles of the arithmetic units for one warp."""
    work = thread_work(shape, knobs)
    tests = _TEST * work.input_loads if shape.padded else 0.0
    return (work.products + _LOOP * work.iterations + tests) * model.warp / model.products


def occupancy(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> float:
    """Share of a core's threads that fit with the registers that each needs: 1, or 0.5 beyond the free ones."""
    return 1.0 if registers_used(shape, knobs) <= model.free_registers else 0.5


def slowness(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> float:
    """How many times slower than the GPU's arithmetic peak a schedule is expected to be, as log2; not a latency."""
    threads = shape.height * shape.width * shape.channels / (knobs.rows * knobs.columns * knobs.channels)
    warps = threads / knobs.threads * math.ceil(knobs.threads / model.warp)
    cycles = warps * max(arithmetic_cycles(shape, knobs, model), load_cycles(shape, knobs, model))
    resident = min(threads / model.cores, model.core_threads * occupancy(shape, knobs, model))
    cycles /= resident / (resident + _FEW * model.core_threads)
    if registers_used(shape, knobs) > model.most_registers:
        cycles *= _SPILL
    return math.log2(max(cycles * model.products / shape.products, 1e-6))


def fits(shape: KernelShape, knobs: GpuKnobs, model: GpuModel) -> bool:
    """Whether a thread's sums, inputs and weights fit its registers."""
    return registers_used(shape, knobs) <= model.most_registers
