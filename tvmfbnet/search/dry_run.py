"""A dry run: real steps of every kind at full shapes, with what they take in time and memory. Writes nothing.

A forecast tries a step or two, on few images where a whole batch would take long (:mod:`tvmfbnet.search.forecast`). A
dry run takes as many whole steps as it is told, so it also tells whether memory suffices and whether images come fast
enough. The kinds of steps take turns; where steps are slow it ends early, and says so.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from tvmfbnet import process
from tvmfbnet.durations import spell_seconds
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.progress import progress
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.forecast import Forecast, StepSeconds, planned, shorter
from tvmfbnet.search.plan import StepKind
from tvmfbnet.search.searcher import Searcher
from tvmfbnet.space.space import Space
from tvmfbnet.training.checkpoint import seeded
from tvmfbnet.training.memory import keep_freed_memory

# A dry run begins no further step after this time, once every kind had one beside the first, which also allocates.
PATIENCE_SECONDS = 600.0
# The learning rate changes no duration, and this one diverges on no images.
_HARMLESS_LR = 1e-4


@dataclass(frozen=True)
class DryRun:
    """What a dry run measured.

    Attributes:
        forecast: of the whole search, from medians of the steps.
        steps: that were taken, of each kind.
        asked: how many were asked for.
        waited_share: share of the time that was spent waiting for images.
        peak_bytes: largest resident memory of this process so far.
        device_peak_bytes: the most memory that tensors took on a GPU; None without one.
        device: torch's name of where it ran.
    """

    forecast: Forecast
    steps: dict[StepKind, int]
    asked: int
    waited_share: float
    peak_bytes: int
    device_peak_bytes: int | None
    device: str

    def describe(self) -> list[str]:
        """Lines for people."""
        names = {"single": "of warm-up", "weight": "of weights", "theta": "of theta"}
        taken = sum(self.steps.values())
        counts = ", ".join(f"{count} {names[kind]}" for kind, count in self.steps.items())
        early = "" if taken >= self.asked else f" of {self.asked}, ended early as steps take long"
        memory = f"memory: {self.peak_bytes / 1e9:.2f} GB at most"
        if self.device_peak_bytes is not None:
            memory += f", and {self.device_peak_bytes / 1e9:.2f} GB on the GPU"
        return [
            f"dry run on {self.device}: {taken} steps{early} ({counts}); "
            f"{self.waited_share:.0%} of the time waiting for images",
            memory,
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "dry_run": {
                "device": self.device,
                "steps": dict(self.steps),
                "asked_steps": self.asked,
                "waited_share": self.waited_share,
                "peak_bytes": self.peak_bytes,
                "device_peak_bytes": self.device_peak_bytes,
            }
        }


def dry_run_search(
    space: Space,
    data_spec: str,
    table: LatencyTable,
    config: SearchConfig,
    steps: int,
    patience_seconds: float = PATIENCE_SECONDS,
) -> DryRun:
    """Takes steps of a search, and forecasts the whole of it.

    Args:
        space: what would be searched.
        data_spec: see :func:`tvmfbnet.data.datasets.load_data`.
        table: latency of every block of ``space``.
        config: the settings.
        steps: how many, of all kinds together; every kind gets at least two.
        patience_seconds: no further step begins after this time.

    Raises:
        UserError: as a search does.
    """
    with planned(space, data_spec, table, config) as (data, latency, workers, plan):
        if process.is_owned():
            keep_freed_memory()
        changes = {"epochs": 2, "warmup_epochs": 1, "weight_lr": _HARMLESS_LR}
        if workers.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(workers.device)
        taken: dict[StepKind, list[float]] = {kind: [] for kind in plan.step_kinds}
        started = time.monotonic()
        with seeded(config.seed, config.threads), progress("dry run", max(steps, 2 * len(taken))) as reporter:
            searcher = Searcher(space, data, latency, config.model_copy(update=changes), workers)
            for number in range(reporter.total):
                kind = plan.step_kinds[number % len(taken)]
                expired = time.monotonic() - started > patience_seconds
                if expired and all(len(seconds) > 1 for seconds in taken.values()):
                    break
                taken[kind].append(searcher.try_step(kind))
                reporter.advance(note=f"{kind} {spell_seconds(taken[kind][-1])}")
            spent, waited = sum(map(sum, taken.values())), searcher.waited_seconds
        # The first step of a kind also allocates.
        medians = {kind: statistics.median(seconds[1:]) for kind, seconds in taken.items()}
        step = StepSeconds(*(medians.get(kind, 0.0) for kind in ("single", "weight", "theta")))
        device = workers.device
        return DryRun(
            Forecast(plan, step, shorter(config, space, device.type, len(data.train))),
            {kind: len(seconds) for kind, seconds in taken.items()},
            steps,
            waited / spent if spent > 0 else 0.0,
            _peak_bytes(),
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            str(device),
        )


def _peak_bytes() -> int:
    """The largest resident set of this process so far; macOS counts bytes, others kilobytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
