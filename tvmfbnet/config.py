"""Validated configuration: one base model for every YAML file, reporting all problems at once in plain words."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tvmfbnet.errors import ConfigError


def _constructed(cls: Any, *values: Any, **settings: Any) -> Any:
    """An instance; ConfigError in place of pydantic's error.

    Within a model that is validated, pydantic constructs parts without this call, and collects the problems of all.
    """
    try:
        return type.__call__(cls, *values, **settings)
    except ValidationError as error:
        raise ConfigError(cls.__name__, problems_of(error)) from error


# A type checker does not see it, and knows each model's own constructor.
_OneLineErrors: Any = type("_OneLineErrors", (type(BaseModel),), {"__call__": _constructed})


class Config(BaseModel, metaclass=_OneLineErrors):  # type: ignore[metaclass]
    """Base of every configuration model: unknown fields are errors, numbers are finite, instances do not change.

    Raises:
        ConfigError: a constructor was given unknown names or bad values; lists all of them in one line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, value: Any) -> Any:
        """YAML's yes and no would become 1 and 0."""
        for name, item in value.items() if isinstance(value, dict) else ():
            field = cls.model_fields.get(name) if isinstance(item, bool) else None
            if field is not None and not {bool, Any} & {field.annotation, *get_args(field.annotation)}:
                raise ValueError(f"{name}: expected a number or text, not a boolean")
        return value


# Every number of a configuration has bounds. They are generous, and only catch typos that would ask for more than any
# machine can do or any library accepts.
MOST_SEED = 2**32 - 1
MOST_THREADS = 1024
MOST_EPOCHS = 100_000
MOST_STEPS = 10_000_000
MOST_IMAGES = 1_000_000_000
MOST_BATCH = 65_536
MOST_TRIALS = 10_000_000
MOST_SAMPLES = 100_000
MOST_LATENCY_MS = 1e7
MOST_SECONDS = 30 * 86_400
MOST_BYTES = 1 << 50

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


def given_whole(values: Any, name: str) -> int | None:
    """An integer setting in a configuration's plain data, before validation; None where it is not an integer."""
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def validate(model: type[ConfigT], value: Any, where: str) -> ConfigT:
    """Builds ``model`` from plain data; :class:`ConfigError` lists every problem with its place in the file."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ConfigError(where, problems_of(error)) from error


def problems_of(error: ValidationError) -> list[str]:
    """One phrase per problem, each with its place in the file."""
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        place = ".".join(str(step) for step in item["loc"])
        message = "unknown name" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        problems.append(_one_line(f"{place}: {message}" if place else message))
    return problems


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
