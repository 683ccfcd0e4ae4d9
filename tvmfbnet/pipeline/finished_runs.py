"""Finished runs of several devices, read to be compared: what each found, for which device, trained on which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmfbnet.advice import command
from tvmfbnet.config import validate
from tvmfbnet.dtypes import MIXED
from tvmfbnet.errors import DataError, StorageError, UserError
from tvmfbnet.files import read_model, read_yaml
from tvmfbnet.latency.cells import Source
from tvmfbnet.latency.cross_device import RunDevice, RunNet, unique_names
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.pipeline.recipe import Recipe
from tvmfbnet.pipeline.run import recorded_target_key
from tvmfbnet.report.run_data import read_run
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.arch_text import format_arch
from tvmfbnet.space.counts import count_arch
from tvmfbnet.space.space import Space
from tvmfbnet.targets.definition import Target, load_target

NET = "train/net.pt"


@dataclass(frozen=True)
class FinishedRun:
    """One run that went to its end.

    Attributes:
        folder: the run's.
        recipe: its settings.
        target: its target, as it is today; of the content that the run recorded.
        space: the search space.
        arch: the found net.
        table: the latency table that it was found on.
        result: ``result.json``.
        data: digest of the data set's content; None in runs of early versions.
    """

    folder: Path
    recipe: Recipe
    target: Target
    space: Space
    arch: Arch
    table: LatencyTable
    result: dict[str, Any]
    data: str | None

    @property
    def net_file(self) -> Path:
        """The trained net."""
        return self.folder / NET

    @property
    def dtype(self) -> str:
        """What nets compute in on its device."""
        return MIXED if self.recipe.is_mixed else self.target.dtype

    @property
    def seconds_per_net(self) -> float | None:
        """What compiling and timing its own net took; None if the run does not say."""
        stages = self.result.get("stage_seconds") or {}
        return sum(stages[name] for name in ("compile", "bench")) if {"compile", "bench"} <= stages.keys() else None

    def device(self, name: str, basis: Source, described: str) -> RunDevice:
        """Its device under a name, as it was when nets were timed there."""
        target_ms = self.result.get("latency_target_ms")
        return RunDevice(name, self.target.name, self.dtype, self.target.threads, basis, target_ms, described)

    def net(self, home: str, test_images: int | None) -> RunNet:
        """Its net, which was found for ``home``."""
        counts = count_arch(self.arch, self.space)
        return RunNet(
            home,
            str(self.folder),
            format_arch(self.arch, self.space),
            self.space.name,
            counts.params,
            counts.macs,
            float(self.result["test_accuracy"]),
            test_images,
        )


def read_finished_runs(folders: Sequence[Path]) -> tuple[FinishedRun, ...]:
    """The runs, which must be of different devices and of one data set.

    Raises:
        UserError: fewer than two runs, one is not finished, two are of one device, or their data differ.
        StorageError: a file of a run is damaged, or its target has another content now.
    """
    if len(folders) < 2:
        raise UserError(
            "a comparison of devices needs two runs or more: give the folders of runs for different targets"
        )
    runs = tuple(map(_read, folders))
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if recorded_target_key(run.target) == recorded_target_key(other.target) and run.dtype == other.dtype:
                raise UserError(
                    f"{other.folder} and {run.folder} are both runs for target {run.target.name}; "
                    "give runs for different targets"
                )
            if run.data != other.data and run.recipe.data != other.recipe.data:
                raise UserError(
                    f"{other.folder} was trained on {other.recipe.data}, {run.folder} on {run.recipe.data}: "
                    "accuracies on different data cannot be compared"
                )
    return runs


def device_names(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """A name for each run's device: its target's, with the dtype where targets share one, else the run's folder."""
    return unique_names(
        [
            (
                run.target.name,
                f"{run.target.name} {run.dtype}",
                f"{run.target.name} {run.dtype}, {run.target.threads} threads",
                f"{run.target.name} of {run.folder}",
            )
            for run in runs
        ]
    )


def count_test_images(run: FinishedRun) -> int | None:
    """How many images the run's accuracy was measured on; None where its data set cannot be read any more."""
    from tvmfbnet.data.datasets import load_data

    space = run.space
    try:
        data = load_data(run.recipe.data, space.height, space.width, space.input_channels, space.classes)
    except DataError:
        return None
    return len(data.test)


def _read(folder: Path) -> FinishedRun:
    read = read_run(folder)
    recipe = validate(Recipe, read_yaml(folder / "recipe.yaml"), str(folder / "recipe.yaml"))
    result, space, arch, table = read.result, read.space, read.arch, read.table
    if result is None or space is None or arch is None or table is None or not (folder / NET).is_file():
        again = command("run", folder / "recipe.yaml", out=folder)
        raise UserError(f"{folder} is not a finished run: finish it with {again}")
    if result.get("test_accuracy") is None:
        raise UserError(f"{folder} has no test accuracy of its net: let its recipe test it after training")
    target = load_target(recipe.spelled_target)
    path = folder / "identity.json"
    identity = read_model(path, dict[str, str]) if path.exists() else {}
    if identity.get("target", recorded_target_key(target)) != recorded_target_key(target):
        raise StorageError(
            f"{folder} was run for another content of target {recipe.target} than it has now; restore it, or run again"
        )
    return FinishedRun(folder, recipe, target, space, arch, table, dict(result), identity.get("data"))
