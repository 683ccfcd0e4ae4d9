"""The net that a run found, with what it was found and trained by: what prunes it needs no other word of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvmfbnet.advice import command
from tvmfbnet.config import validate
from tvmfbnet.errors import UserError
from tvmfbnet.files import read_yaml
from tvmfbnet.pipeline.recipe import Recipe
from tvmfbnet.report.pruning_files import PRUNINGS
from tvmfbnet.report.run_data import RECIPE, read_run
from tvmfbnet.space.arch import Arch
from tvmfbnet.space.space import Space
from tvmfbnet.training.config import TrainConfig

__all__ = ["PRUNINGS", "FoundNet", "read_found_net"]


@dataclass(frozen=True)
class FoundNet:
    """A run's net.

    Attributes:
        arch: the net.
        space: its search space, with the data set's classes.
        data: the data set, as ``docs/reference/data.md`` has it.
        training: the settings that the run trained it with.
        latencies: what it was found on, as ``--latency-table`` takes it.
    """

    arch: Arch
    space: Space
    data: str
    training: TrainConfig
    latencies: str


def read_found_net(run: Path) -> FoundNet:
    """Reads it from a run's folder; the run need not be finished.

    Raises:
        UserError: there is no such run, or it has found no net yet.
        StorageError: a file of the run is damaged.
        ConfigError: its recipe is of another version.
    """
    read = read_run(run)
    recipe = validate(Recipe, read_yaml(run / RECIPE), str(run / RECIPE))
    if read.arch is None or read.space is None:
        raise UserError(f"{run} has found no net yet: finish it with {command('run', run / RECIPE, out=run)}")
    return FoundNet(read.arch, read.space, recipe.data, recipe.train, recipe.latency or recipe.spelled_target)
