"""Recipes: the settings of one whole run, checked as a whole before anything starts, and the shipped ones."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from tvmfbnet.config import Config, validate
from tvmfbnet.files import read_yaml
from tvmfbnet.pipeline.tuning_options import TuneConfig
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.shipped import Shipped
from tvmfbnet.training.config import TrainConfig


class Recipe(Config):
    """One whole run. Shipped recipes are in ``tvmfbnet/pipeline/recipes``; copy one and edit it."""

    description: str = Field(description="one line for people")
    target: str = Field(description="a target's name or .yaml file")
    space: str = Field(description="a search space's name or .yaml file")
    data: str = Field(description="fashion_mnist[:DIR], cifar10[:DIR] or imagefolder:DIR")
    tune: TuneConfig = TuneConfig()
    latency_target_share: float | None = Field(
        default=None, gt=0, le=1, description="latency target as a share of the slowest net's latency"
    )
    search: SearchConfig
    train: TrainConfig

    @model_validator(mode="after")
    def _one_target(self) -> Recipe:
        if self.latency_target_share is not None and self.search.latency_target_ms is not None:
            raise ValueError("give latency_target_share or search.latency_target_ms, not both")
        if self.latency_target_share is None:
            self.search.require_consistent_target()
        return self


def list_recipes() -> list[str]:
    """Names of the shipped recipes."""
    return _SHIPPED.names()


def load_recipe(name_or_file: str) -> tuple[str, Recipe]:
    """A shipped recipe by name, or one from a ``.yaml`` file; also gives its name.

    Raises:
        UserError: no such recipe, or it is malformed (says every problem).
    """
    path = _SHIPPED.path(name_or_file)
    return path.stem, validate(Recipe, read_yaml(path), str(path))


_SHIPPED = Shipped("recipe", (Path(__file__).parent / "recipes",))
