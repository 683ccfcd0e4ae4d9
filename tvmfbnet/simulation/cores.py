"""The cores that can be simulated: pipeline model, caches, memory and clock, one YAML file each.

A core's file holds what the model says and where each figure comes from. Three parts describe the pipeline: the
scheduling model of LLVM that comes closest (``mca.cpu``), instructions that are scheduled like another one because
LLVM's model of them is wrong (``mca.substitutions``), and limits of throughput that LLVM's model does not know
(``mca.limits``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tvmfbnet.config import Config, validate
from tvmfbnet.files import read_yaml
from tvmfbnet.shipped import Shipped

_FOLDER = Path(__file__).parent / "cores"
CORES = Shipped("core", [_FOLDER])

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+.\-]+$")]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


class Substitution(Config):
    """Instructions that the model schedules like another instruction.

    Args:
        match: a regular expression that the whole instruction must match, such as ``fmla v(\\d+)\\.4s, .*``.
        schedule_as: what llvm-mca gets instead, one instruction or several with ``; `` between; ``\\1`` is a group
            of ``match``. It must read and write the same registers, so that dependences stay.
        source: why, and where the figures are documented.
    """

    match: Text
    schedule_as: Text
    source: Text

    _pattern = field_validator("match")(_check_pattern)

    @model_validator(mode="after")
    def _groups_exist(self) -> Substitution:
        groups = re.compile(self.match).groups
        asked = [int(number) for number in re.findall(r"\\(\d+)", self.schedule_as)]
        if any(number > groups for number in asked):
            raise ValueError(f"schedule_as: {self.schedule_as!r} asks for a group that {self.match!r} does not have")
        return self


class Use(Config):
    """How long one instruction occupies a limited resource.

    Args:
        match: a regular expression that the whole instruction must match.
        cycles: for how many cycles.
    """

    match: Text
    cycles: float = Field(ge=0, le=1000)

    _pattern = field_validator("match")(_check_pattern)


class Limit(Config):
    """A resource that LLVM's model does not have: a block takes at least the sum of its instructions' cycles there.

    Args:
        name: for messages and docs.
        uses: the first that matches an instruction counts; one that none matches does not use the resource.
        source: where the figures are documented.
    """

    name: Name
    uses: list[Use] = Field(min_length=1, max_length=50)
    source: Text


class Mca(Config):
    """The pipeline: a scheduling model of LLVM, and what corrects it.

    Args:
        cpu: llvm-mca's ``-mcpu``.
        triple: the machine.
        features: llvm-mca's ``-mattr``: instructions that the core has and ``cpu`` lacks.
        dispatch: micro-operations per cycle, where LLVM's figure is not the core's.
        substitutions: instructions scheduled like others; the first that matches counts.
        limits: lower bounds that LLVM's model lacks.
        unmodelled_cycles: cycles of an instruction that LLVM cannot schedule: system calls, atomics.
    """

    cpu: Name
    triple: Literal["aarch64", "x86_64"] = "aarch64"
    features: list[Name] = Field(default=[], max_length=50)
    dispatch: int | None = Field(default=None, ge=1, le=32)
    substitutions: list[Substitution] = Field(default=[], max_length=50)
    limits: list[Limit] = Field(default=[], max_length=20)
    unmodelled_cycles: float = Field(default=10.0, ge=0, le=1000)


class Cache(Config):
    """One level of data cache.

    Args:
        size_kb: capacity in KiB.
        ways: lines per set.
        line_bytes: line size.
        latency_cycles: cycles from a load that hits here to the use of its value.
        bytes_per_cycle: what this level delivers to the one above.
    """

    size_kb: int = Field(ge=1, le=1 << 20)
    ways: int = Field(ge=1, le=64)
    line_bytes: int = Field(default=64, ge=16, le=512)
    latency_cycles: float = Field(ge=1, le=1000)
    bytes_per_cycle: float = Field(gt=0, le=1024)

    @model_validator(mode="after")
    def _whole_sets(self) -> Cache:
        line = self.line_bytes
        if line & (line - 1):
            raise ValueError(f"line_bytes: {line} is not a power of two")
        sets, remainder = divmod(self.size_kb * 1024, self.ways * line)
        if remainder or sets & (sets - 1):
            raise ValueError(
                f"{self.size_kb} KiB in {self.ways} ways of {line}-byte lines is not a power-of-two number of sets"
            )
        return self

    @property
    def sets(self) -> int:
        """Number of sets."""
        return self.size_kb * 1024 // (self.ways * self.line_bytes)


class Memory(Config):
    """Main memory, as one core sees it.

    Args:
        latency_ns: nanoseconds from a load that misses every cache to the use of its value.
        gbps: GB/s (1e9 bytes) that one core reads or writes.
    """

    latency_ns: float = Field(gt=0, le=10_000)
    gbps: float = Field(gt=0, le=10_000)


class Prefetch(Config):
    """The stride prefetcher.

    Args:
        streams: access streams that are followed at a time; 0 for none.
        degree: lines that it runs ahead.
    """

    streams: int = Field(ge=0, le=256)
    degree: int = Field(ge=0, le=64)


class Documented(Config):
    """Throughputs that public documents give, which the model must reproduce within 10 %.

    Args:
        fma_latency: cycles from one ``fmla`` to the next that adds to its sum; None where no document says.
        fmas_per_cycle: 128-bit ``fmla`` per cycle: the core's peak.
        loads_per_cycle: 128-bit loads per cycle; None where no document says.
        pointer_cycles: cycles from a post-indexed 128-bit load to the next one by the same pointer; None where no
            document says.
        copy_cycles: cycles to load and store 128 bits; None where no document says. Never taken from LLVM's model,
            which it is there to check.
        loads_beside_fma: whether a 128-bit load issues in the same cycle as an ``fmla``.
        narrow_load_cycles: what a 64-bit vector load costs between ``fmla``; 0 where it issues beside one.
        source: the documents.
    """

    fma_latency: float | None = Field(gt=0, le=100)
    fmas_per_cycle: float = Field(gt=0, le=16)
    loads_per_cycle: float | None = Field(gt=0, le=16)
    pointer_cycles: float | None = Field(default=None, gt=0, le=100)
    copy_cycles: float | None = Field(gt=0, le=100)
    loads_beside_fma: bool = True
    narrow_load_cycles: float = Field(default=0, ge=0, le=10)
    source: Text

    @model_validator(mode="after")
    def _lone_loads_have_a_rate(self) -> Documented:
        if not self.loads_beside_fma and self.loads_per_cycle is None:
            raise ValueError("loads_per_cycle: needed where loads_beside_fma is false")
        return self


class Core(Config):
    """A core that can be simulated.

    Args:
        name: name of the file.
        description: one line.
        device: a product with this core, whose clock, caches and memory these are.
        emulated_cpu: ``-cpu`` of qemu.
        codegen_cpu: ``mcpu`` that TVM compiles for.
        frequency_ghz: clock.
        mca: the pipeline.
        caches: data caches, the closest first.
        memory: main memory.
        prefetch: the prefetcher.
        overlap: the share of a miss's latency that the core hides by executing other instructions.
        documented: throughputs that the pipeline must reproduce; None for a core of one's own.
    """

    name: Name
    description: Text
    device: Text
    emulated_cpu: Name
    codegen_cpu: Name
    frequency_ghz: float = Field(gt=0, le=10)
    mca: Mca
    caches: list[Cache] = Field(min_length=1, max_length=4)
    memory: Memory
    prefetch: Prefetch
    overlap: float = Field(ge=0, lt=1)
    documented: Documented | None = None

    @field_validator("caches")
    @classmethod
    def _levels_grow(cls, caches: list[Cache]) -> list[Cache]:
        for near, far in itertools.pairwise(caches):
            if far.size_kb < near.size_kb or far.latency_cycles <= near.latency_cycles:
                raise ValueError("each level must be larger and slower than the one before")
            if far.line_bytes != near.line_bytes:
                raise ValueError("all levels must have the same line_bytes")
        return caches

    @property
    def digest(self) -> str:
        """Identity of everything that changes a simulated time: twelve hexadecimal digits."""
        told = {"name", "description", "device", "documented"}
        return _digest(self.model_dump(mode="json", exclude=told | {"mca"}) | {"mca": self._pipeline()})

    @property
    def pipeline_digest(self) -> str:
        """Identity of what changes the cycles of a block."""
        return _digest(self._pipeline())

    def _pipeline(self) -> dict[str, object]:
        """The pipeline without what is there to be read."""
        told = {"substitutions": {"__all__": {"source"}}, "limits": {"__all__": {"source", "name"}}}
        return self.mca.model_dump(mode="json", exclude=told)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def load_core(name_or_file: str) -> Core:
    """Reads a shipped core, or a file.

    Raises:
        UserError: there is no such core; lists those there are.
        ConfigError: the file is malformed; lists every problem.
    """
    path = CORES.path(name_or_file)
    return validate(Core, read_yaml(path), str(path))


def list_cores() -> list[str]:
    """Names of the shipped cores, sorted."""
    return CORES.names()
