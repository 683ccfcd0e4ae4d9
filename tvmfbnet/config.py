"""Checked configuration: one base model for every YAML file, reporting all problems at once in plain words."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tvmfbnet.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration model: unknown fields are errors, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validate(model: type[ConfigT], value: Any, where: str) -> ConfigT:
    """Builds ``model`` from plain data; :class:`ConfigError` lists every problem with its place in the file."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            place = ".".join(str(step) for step in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            problems.append(f"{place}: {message}" if place else message)
        raise ConfigError(where, problems) from error
