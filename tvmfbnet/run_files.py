"""Schemas of the JSON files in a run folder, validated on every read.

A run may be copied, edited, truncated by a full disk or written by another version. Each schema covers the fields that
readers rely on; an invalid file is one error line with its name and problem, wherever it is read. Fields that a later
version adds are kept as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from tvmfbnet.batches import LARGEST_BATCH
from tvmfbnet.errors import StorageError
from tvmfbnet.files import Stored, read_json, read_model

# Products of probabilities and smoothed accuracies may lie slightly outside of 0 to 1.
Share = Annotated[float, Field(ge=-0.5, le=1.5)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**20)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
Millijoules = Annotated[float, Field(ge=0, le=1e9)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Name = Annotated[str, Field(min_length=1, max_length=100_000)]


# The stages of a run, in their order; in the command's output and in the report they have the same numbers.
STAGES = ("tune", "search", "train", "compile", "bench", "report")


def stage_title(name: str) -> str:
    """A stage with its number: ``2/6 search``; its name alone where a later version knows more stages."""
    return f"{STAGES.index(name) + 1}/{len(STAGES)} {name}" if name in STAGES else name


def stage_progress(name: str) -> str:
    """A stage as a run announces it: ``[2/6] search``."""
    number, _, what = stage_title(name).partition(" ")
    return f"[{number}] {what}"


class _Record(Stored):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class LayerRecord(_Record):
    """One layer of a space."""

    index: Count
    stage: Count
    cin: Size
    cout: Size
    height: Size
    width: Size
    stride: Annotated[int, Field(ge=1, le=16)]
    blocks: Annotated[list[Name], Field(min_length=1, max_length=1000)]


class SpaceRecord(_Record):
    """A whole space, for files that must be self-contained."""

    name: Name
    input_channels: Size
    height: Size
    width: Size
    classes: Size
    stem_channels: Size
    stem_stride: Size
    last_channels: Size
    layers: Annotated[list[LayerRecord], Field(min_length=1, max_length=1000)]
    description: str = ""


class CellRecord(_Record):
    """One cell of ``table.json``: a part and what it costs."""

    part: Name
    block: Name
    cin: Size
    cout: Size
    height: Size
    width: Size
    stride: Size
    latency_ms: Annotated[float, Field(ge=-1e9, le=1e9)]
    spread_ms: Milliseconds = 0.0
    source: Literal["measured", "predicted", "simulated"] = "measured"
    n: Count = 0
    trials: Count = 0
    canary_ratio: Annotated[float, Field(ge=0, le=1e9)] | None = None
    steady: bool = True
    energy_mj: Millijoules | None = None
    energy_spread_mj: Millijoules | None = None
    energy_source: Annotated[str, Field(max_length=10_000)] | None = None


class CallEnergyRecord(_Record):
    """What calling a net takes, once per net."""

    energy_mj: Millijoules
    energy_spread_mj: Millijoules = 0.0
    energy_source: Annotated[str, Field(max_length=10_000)] = ""


class LatencyOriginRecord(Stored):
    """Where latencies come from: see :class:`tvmfbnet.latency.origin.LatencyOrigin`."""

    kind: Literal["target", "mixed", "import", "file", "simulated", "unknown"]
    name: Annotated[str, Field(max_length=10_000)] = ""
    simulated: bool = False


class TableRecord(_Record):
    """``table.json``: the latency table that the run used."""

    target: Name
    origin: LatencyOriginRecord | None = None
    overhead_ms: Annotated[float, Field(ge=-1e9, le=1e9)]
    cells: Annotated[list[CellRecord], Field(min_length=1)]
    correction: str = ""
    dtype: Name | None = None
    space: SpaceRecord | Name | None = None
    call_energy: CallEnergyRecord | None = None
    batch: Annotated[int, Field(ge=1, le=LARGEST_BATCH)] = 1


class ConstraintRecord(_Record):
    """What an arch has of a bounded quantity; in ``result.json`` latency is as measured, ``met`` null if undecided."""

    quantity: Name
    unit: Annotated[str, Field(max_length=20)]
    value: Annotated[float, Field(ge=0, le=1e18)]
    bound: Annotated[float, Field(ge=0, le=1e18)]
    met: bool | None


class CandidateRecord(_Record):
    """One arch of ``archs.json``, or the best one of ``search.json``."""

    arch: Name
    probability: Share
    predicted_ms: Milliseconds
    accuracy: Share | None = None
    spread_ms: Milliseconds = 0.0
    constraints: list[ConstraintRecord] = Field(default_factory=list)


class BestRecord(_Record):
    """The best arch of ``search.json``."""

    arch: Name
    predicted_ms: Milliseconds
    accuracy: Share | None = None
    constraints: list[ConstraintRecord] = Field(default_factory=list)


class NoticeRecord(_Record):
    """A notice about a search, such as that it learned nothing: see :mod:`tvmfbnet.search.notices`."""

    kind: Name
    text: Name


class SearchFile(_Record):
    """``search.json``: the fields that are read outside the search."""

    best: BestRecord
    notices: list[NoticeRecord] = Field(default_factory=list)
    latency_target_ms: Milliseconds | None = None
    space: SpaceRecord | Name | None = None
    strategy: Name = "differentiable"
    latency_source: LatencyOriginRecord | None = None


class FrontRow(_Record):
    """One net of ``search/front.json``."""

    bound_ms: Milliseconds
    arch: Name
    predicted_ms: Milliseconds
    spread_ms: Milliseconds
    accuracy: Share
    accuracy_spread: Annotated[float, Field(ge=0, le=10)]


class FrontFile(_Record):
    """``search/front.json``: the nets of a search in Pareto mode."""

    strategy: Name
    evaluations: Count
    nets: Annotated[list[FrontRow], Field(min_length=1)]


class HistoryRow(_Record):
    """One epoch of ``search/history.json``."""

    epoch: Count
    phase: Literal["warm-up", "search"]
    temperature: float
    weight_loss: float
    weight_accuracy: float
    theta_loss: float | None = None
    theta_accuracy: float | None = None
    expected_ms: float
    theta: list[list[float]]


class TrainEpoch(_Record):
    """One epoch of ``train/history.json``."""

    epoch: Count
    train_loss: float
    train_accuracy: float
    test_accuracy: Share | None = None


class IntervalRecord(_Record):
    """Bounds of a measured latency."""

    low_ms: Milliseconds
    high_ms: Milliseconds
    confidence: Share
    visits: Count


class SpeedFactorRecord(_Record):
    """The device's speed factor: the fields that are shown."""

    description: str


class _Verdict(_Record):
    """The verdict on a latency target; all None without a target."""

    verdict: str | None = None
    verdict_kind: Literal["met", "missed", "undecided"] | None = None
    latency_target_ms: Milliseconds | None = None
    advice: str | None = None


class AttemptRecord(_Verdict):
    """One arch of ``closed_loop.json``; ``measured_ms`` or ``simulated_ms`` has its latency."""

    arch: Name
    table_ms: Milliseconds
    verdict: str
    measured_ms: Milliseconds | None
    simulated_ms: Milliseconds | None = None
    interval: IntervalRecord
    speed_factor: SpeedFactorRecord | None
    at_table_speed_ms: Milliseconds | None
    turn: Count | None = None
    predicted_ms: Milliseconds | None = None
    factor: Annotated[float, Field(ge=0, le=1e9)] | None = None
    next: str = ""

    @model_validator(mode="after")
    def _timed(self) -> AttemptRecord:
        if (self.measured_ms is None) == (self.simulated_ms is None):
            raise ValueError("a net that was timed has measured_ms or simulated_ms, and not both")
        return self


class ClosedLoopRecord(_Record):
    """``closed_loop.json``: the archs that were timed, and the chosen one."""

    target_ms: Milliseconds
    arch: Name
    attempts: list[AttemptRecord]
    kept_turn: Count | None = None
    why: str = ""


class BenchRecord(_Verdict):
    """``bench.json``: the package's latency on the device, and the verdict on it."""

    latency_ms: Milliseconds
    source: Literal["measured", "simulated"] = "measured"
    spread_ms: Milliseconds
    interval: IntervalRecord
    noise: Annotated[float, Field(ge=0)]
    speed_factor: SpeedFactorRecord | None
    onnxruntime_ms: Milliseconds | None = None
    device: dict[str, Any] = Field(default_factory=dict)
    time: str = ""
    chosen_on_simulated: bool = False


class ParityRecord(_Record):
    """``parity.json``: the largest relative difference from PyTorch, and the agreement with it in float32."""

    parity_error: Annotated[float, Field(ge=0)]
    agreement: Share | None = None
    images: Count | None = None
    accuracy: Share | None = None
    float32_accuracy: Share | None = None


class FineTuningRecord(Stored):
    """Whether fine-tuning made a quantised net better: on training images that it did not see.

    Attributes:
        epochs: of fine-tuning.
        images: held-out training images that both nets were judged on.
        accuracy: of the fine-tuned net on them, in ONNX Runtime.
        untuned_accuracy: that of the net as it was quantised after training.
        kept: whether the fine-tuned net is the result.
    """

    epochs: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    accuracy: Annotated[float, Field(ge=0, le=1)]
    untuned_accuracy: Annotated[float, Field(ge=0, le=1)]
    kept: bool

    def describe(self) -> str:
        """One phrase for people."""
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        told = f"{self.accuracy:.2%} after {epochs} instead of {self.untuned_accuracy:.2%}"
        return f"{told} on {self.images} held-out training images: {'kept' if self.kept else 'not better, not kept'}"


class ResultRecord(_Verdict):
    """``result.json``: the fields that the report reads; an unfinished run may lack some."""

    arch: Name | None = None
    target: Name | None = None
    space: Name | SpaceRecord | None = None
    predicted_ms: Milliseconds | None = None
    measured_ms: Milliseconds | None = None
    simulated_ms: Milliseconds | None = None
    measured_spread_ms: Milliseconds | None = None
    interval: IntervalRecord | None = None
    speed_factor: SpeedFactorRecord | None = None
    onnxruntime_ms: Milliseconds | None = None
    dtype: Name | None = None
    float32_units: list[Name] = Field(default_factory=list)
    parity_error: Annotated[float, Field(ge=0)] | None = None
    agreement: Share | None = None
    images: Count | None = None
    accuracy: Share | None = None
    float32_accuracy: Share | None = None
    fine_tuning: FineTuningRecord | None = None
    task: Name | None = None
    metric: Name | None = None
    test_accuracy: Share | None = None
    measured_share: Share | None = None
    stage_seconds: dict[str, Seconds] = Field(default_factory=dict)
    kernels_needed: Count | None = None
    kernels_found: Count | None = None
    threads: Count | None = None
    notices: list[NoticeRecord] = Field(default_factory=list)
    closed_loop: ClosedLoopRecord | None = None
    constraints: list[ConstraintRecord] = Field(default_factory=list)
    machine: str | None = None
    latency_source: LatencyOriginRecord | None = None
    chosen_on_simulated: bool = False


State = dict[Annotated[str, Field(max_length=100)], Seconds]

# By path inside the run folder.
_SCHEMAS: dict[str, Any] = {
    "state.json": State,
    "table.json": TableRecord,
    "search/archs.json": Annotated[list[CandidateRecord], Field(min_length=1)],
    "search/search.json": SearchFile,
    "search/front.json": FrontFile,
    "search/history.json": Annotated[list[HistoryRow], Field(min_length=1)],
    "train/history.json": Annotated[list[TrainEpoch], Field(min_length=1)],
    "closed_loop.json": ClosedLoopRecord,
    "bench.json": BenchRecord,
    "parity.json": ParityRecord,
    "fine_tuning/fine_tuning.json": FineTuningRecord,
    "result.json": ResultRecord,
    "package/package.json": dict[str, Any],
}
FILES = tuple(_SCHEMAS)


def read_run_file(folder: Path, name: str) -> Any:
    """The plain data of one file of a run folder, validated against its schema.

    Args:
        folder: the run folder.
        name: one of :data:`FILES`.

    Raises:
        StorageError: the file is missing or damaged; names it and says what is wrong and what to do.
    """
    path = folder / name
    try:
        read_model(path, _SCHEMAS[name])
    except StorageError as error:
        raise StorageError(f"{error}; remove it and run again") from error
    return read_json(path)
