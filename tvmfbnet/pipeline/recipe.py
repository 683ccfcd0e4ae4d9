"""Recipes: the settings of one whole run, checked as a whole before anything starts, and the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from tvmfbnet.config import Config, validate
from tvmfbnet.data.kinds import SPECS
from tvmfbnet.dtypes import DTYPES, INT8, MAX_ACCURACY_LOSS, MIXED, require_dtype, spelled_with_dtype
from tvmfbnet.errors import ConfigError, ConstraintError
from tvmfbnet.files import read_yaml
from tvmfbnet.latency.sources.registry import kind_of, table_source
from tvmfbnet.latency.sources.simulated import PREFIX
from tvmfbnet.pipeline.tuning_options import TuneConfig
from tvmfbnet.quantisation.config import QuantisationConfig
from tvmfbnet.search.config import SearchConfig
from tvmfbnet.search.quantities.size import SIZE
from tvmfbnet.shipped import Shipped
from tvmfbnet.training.config import TrainConfig


class Recipe(Config):
    """One whole run. Shipped recipes are in ``tvmfbnet/pipeline/recipes``; copy one and edit it."""

    description: str = Field(description="one line for people")
    target: str = Field(description="a target's name or .yaml file")
    dtype: str | None = Field(
        default=None,
        description=f"{', '.join(f'`{name}`' for name in DTYPES)}, in place of the target's own, or `{MIXED}`: each "
        "block in float32 or int8, whichever is faster",
    )
    space: str = Field(description="a search space's name or .yaml file")
    data: str = Field(description=SPECS)
    latency: str | None = Field(
        default=None,
        description="latencies of the search in place of tuning: a table's file, or simulated:gflops=16,gbps=8",
    )
    tune: TuneConfig = TuneConfig()
    latency_target_share: float | None = Field(
        default=None, gt=0, le=1, description="latency target as a share of the slowest net's latency"
    )
    search: SearchConfig
    train: TrainConfig
    quantisation: QuantisationConfig = QuantisationConfig()
    max_accuracy_loss: float = Field(
        default=MAX_ACCURACY_LOSS,
        ge=0,
        le=100,
        description="percentage points of top-1 accuracy on test images that the net may lose in the target's dtype",
    )
    max_package_size: str | None = Field(
        default=None,
        description="refuse a net of which a device needs more on disk (library and package.json), such as 600kB",
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _check_dtype(cls, value: Any) -> Any:
        return value if value in (None, MIXED) else require_dtype(value)

    @field_validator("max_package_size")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                SIZE.parse(value)
            except ConstraintError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def max_package_bytes(self) -> int | None:
        """``max_package_size`` in bytes."""
        return None if self.max_package_size is None else max(1, int(SIZE.parse(self.max_package_size)))

    @property
    def spelled_target(self) -> str:
        """The target with the recipe's dtype, as commands take it; mixed dtypes are a matter of int8's target."""
        return spelled_with_dtype(self.target, INT8.name if self.is_mixed else self.dtype)

    @property
    def is_mixed(self) -> bool:
        """Whether each block is in float32 or int8."""
        return self.dtype == MIXED

    @model_validator(mode="after")
    def _one_target(self) -> Recipe:
        if self.latency is not None:
            self._require_given(self.latency)
        if self.latency_target_share is not None and self.search.latency_target_ms is not None:
            raise ValueError("give latency_target_share or search.latency_target_ms, not both")
        if self.latency_target_share is None:
            self.search.require_consistent_target()
        return self

    def _require_given(self, latency: str) -> None:
        """ValueError unless ``latency`` names a source that asks no device, and nothing is to be tuned besides."""
        try:
            kind = kind_of(latency)
            table_source(latency)
        except ConfigError as error:
            raise ValueError(f"latency: {error}") from error
        if self.is_mixed:
            raise ValueError("mixed dtypes are chosen by a target's measurements: leave latency out")
        if kind in ("target", "mixed"):
            raise ValueError(
                f"latency is {latency!r}, neither a table's file nor {PREFIX}...: to measure a target, name it as "
                "target and leave latency out"
            )
        if self.tune != TuneConfig():
            raise ValueError(
                f"tune measures the target, and latency: {latency} measures nothing: leave one of them out"
            )


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
