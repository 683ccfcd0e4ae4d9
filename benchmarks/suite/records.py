"""The JSON file of a run of the benchmarks: machine and versions once, and of each benchmark what it reported."""

from __future__ import annotations

import statistics
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, read_model, write_json
from tvmfbnet.machine import allowed_cores
from tvmfbnet.rpc.host_facts import host_fingerprint

FORMAT = 1
PACKAGES = ("tvmfbnet", "apache-tvm", "torch", "onnxruntime", "xgboost", "numpy")
# Below this many values, percentiles say nothing: the least and the largest are the spread.
_FEW = 5

FormName = Literal["quick", "full"]


class Figure(Stored):
    """One figure of a benchmark (`figures.report_figure` says what the fields are)."""

    name: str
    unit: str
    better: Literal["lower", "higher"]
    exact: bool = False
    values: list[float] = Field(min_length=1)

    @property
    def value(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The 10th and 90th percentile of the repeats; of few, the least and the largest."""
        if len(self.values) < _FEW:
            return min(self.values), max(self.values)
        low, high = np.percentile(self.values, (10, 90))
        return float(low), float(high)


class Outcome(Stored):
    """What became of one benchmark.

    Attributes:
        status: ``skipped`` is what this machine lacks something for.
        reason: why it failed or was skipped, one line.
        commands: as they can be repeated from the top folder.
        recorded: when it ended, UTC.
        seconds: that it took.
        load: the machine's load average over a minute when it began and when it ended.
        cores: that it was pinned to.
        revision: of the sources; empty outside a git repository.
        figures: all that were reported, also by one that failed later.
    """

    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    commands: tuple[str, ...]
    recorded: str
    seconds: float = 0.0
    load: tuple[float, float] | None = None
    cores: str = ""
    revision: str = ""
    figures: tuple[Figure, ...] = ()


class Machine(Stored):
    """The machine of a file's figures.

    Attributes:
        model: as the system names the CPU.
        cpu: as LLVM names its kind of core.
        features: of the CPU that kernels can use.
        cores: that this process may use.
    """

    model: str
    cpu: str
    features: list[str]
    architecture: str
    cores: int
    system: str

    @property
    def title(self) -> str:
        """In one line."""
        return f"{self.model or self.architecture} ({self.cpu}), {self.cores} core{'s' if self.cores > 1 else ''}"

    def same_cpu(self, other: Machine) -> bool:
        """Whether times of both may be compared."""
        return (self.model, self.cpu, self.features, self.cores) == (
            other.model,
            other.cpu,
            other.features,
            other.cores,
        )


class Record(Stored):
    """A file of figures."""

    format: Literal[1] = FORMAT
    form: FormName
    machine: Machine
    versions: dict[str, str]
    benchmarks: dict[str, Outcome] = Field(default_factory=dict)

    def figures(self) -> dict[tuple[str, str], Figure]:
        """All figures, by benchmark and name."""
        return {(name, figure.name): figure for name, outcome in self.benchmarks.items() for figure in outcome.figures}


# What decides how fast kernels can be; CPUs have hundreds more.
_FEATURES = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_int8"),
    *("amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@cache
def this_machine() -> Machine:
    """The machine that this runs on. Loads TVM for the name of its core."""
    from tvmfbnet.targets.cpu_features import native_cpu

    facts = host_fingerprint()
    return Machine(
        model=str(facts.get("model", "")),
        cpu=native_cpu()[0],
        features=cpu_features(Path("/proc/cpuinfo")),
        architecture=str(facts["machine"]),
        cores=allowed_cores(),
        system=f"{facts['system']} {facts['kernel']}",
    )


def cpu_features(cpuinfo: Path) -> list[str]:
    """The features that matter among those that Linux lists; empty where it lists none."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    listed = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [name for name in _FEATURES if name in listed]


def versions() -> dict[str, str]:
    """The installed version of each package that figures depend on."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def read_record(file: Path) -> Record:
    """A file of figures; StorageError where it is missing, damaged or something else."""
    return read_model(file, Record)


def write_record(file: Path, record: Record) -> None:
    """Writes the whole file, atomically."""
    write_json(file, record.model_dump(mode="json"))


def continued(file: Path, form: FormName) -> Record:
    """The record that a run adds to: the file's if it is there, else an empty one.

    Raises:
        StorageError: the file is of another form, machine or set of versions, so that its figures do not belong with
            those of this run.
    """
    machine, installed = this_machine(), versions()
    if not file.exists():
        return Record(form=form, machine=machine, versions=installed)
    record = read_record(file)
    if record.form != form:
        raise StorageError(f"{file} is of a {record.form} run; give --json another file for a {form} one")
    if not record.machine.same_cpu(machine):
        raise StorageError(f"{file} is of {record.machine.title}, this is {machine.title}; give --json another file")
    if record.versions != installed:
        changed = ", ".join(
            f"{name} {record.versions.get(name, 'none')} there, {installed.get(name, 'none')} here"
            for name in sorted({*record.versions, *installed})
            if record.versions.get(name) != installed.get(name)
        )
        raise StorageError(f"{file} is of other versions ({changed}); give --json another file, or remove it")
    return record
