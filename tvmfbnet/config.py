"""Checked configuration: one base model for every YAML file, reporting all problems at once in plain words."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tvmfbnet.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration model: unknown fields are errors, numbers are finite, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


ConfigT = TypeVar("ConfigT", bound=BaseModel)

_SHOWN_PROBLEMS = 8  # of a file with thousands, the first ones are enough to start with


def validate(model: type[ConfigT], value: Any, where: str) -> ConfigT:
    """Builds ``model`` from plain data; :class:`ConfigError` lists its problems with their places in the file."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(where, problems_of(error)) from error


def problems_of(error: ValidationError) -> list[str]:
    """One phrase a problem, each with its place in the file; of a great many, the first and how many more there are."""
    problems = []
    for item in error.errors(include_url=False, include_input=False)[:_SHOWN_PROBLEMS]:
        place = ".".join(str(step) for step in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        problems.append(_one_line(f"{place}: {message}" if place else message))
    left = error.error_count() - len(problems)
    return [*problems, f"and {left} more"] if left else problems


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
