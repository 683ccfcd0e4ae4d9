"""Settings as text: commented YAML for people to edit, and tables for the reference page.

Both are generated from the fields of the configuration models (:mod:`tvmfbnet.config`), so they are always current.
"""

from __future__ import annotations

import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_WIDTH = 100


def commented_yaml(model: type[BaseModel], chosen: Mapping[str, Any]) -> str:
    """A YAML file with every setting of a model: chosen values active, the others commented out at their default.

    Args:
        model: the configuration model.
        chosen: plain data that fits the model; nested mappings for nested models.
    """
    return "".join(_lines(model, chosen, 0))


def _lines(model: type[BaseModel], chosen: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        nested = nested_model(field)
        if nested is not None and (name in chosen or field.is_required()):
            values = chosen.get(name, {})
            yield from _comment(f"{indent}# ", field.description or _first_sentence(nested))
            yield f"{indent}{name}:\n" if values or depth == 0 else f"{indent}{name}: {{}}\n"
            yield from _lines(nested, values, depth + 1)
            continue
        yield from _comment(f"{indent}# ", field.description or "")
        if name in chosen:
            yield f"{indent}{name}: {_scalar(chosen[name])}\n"
        else:
            value = field.get_default(call_default_factory=True) if not field.is_required() else None
            plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            yield f"{indent}#{name}: {_scalar(plain)}\n"


def _comment(prefix: str, text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, _WIDTH - len(prefix)):
        yield f"{prefix}{line}\n"


def _scalar(value: Any) -> str:
    """A value on one line of YAML."""
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def nested_model(field: FieldInfo) -> type[BaseModel] | None:
    """A field's nested model; None for other fields."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _first_sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def reference_table(model: type[BaseModel]) -> str:
    """A Markdown table of a model's own fields: name, values, default, meaning. Nested models have their own."""
    rows = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if nested_model(field) is None:
            meaning = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{name}` | {values_of(field)} | {_default_of(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "unset"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{_scalar(value)}`"


def values_of(field: FieldInfo) -> str:
    """A field's allowed values for humans: its choices, or its type and bounds."""
    kinds = _members(field.annotation)
    choices = [f"`{choice}`" for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return ", ".join(choices)
    kind = kinds[0]
    names = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text", Path: "path"}
    name = names.get(kind, "list" if get_origin(kind) in (tuple, list) else "mapping")
    bounds = {
        symbol: getattr(item, limit) for item in field.metadata for limit, symbol in _LIMITS if hasattr(item, limit)
    }
    told = [
        f"{symbol} {value:,}" if isinstance(value, int) else f"{symbol} {value:g}" for symbol, value in bounds.items()
    ]
    return f"{name} {' and '.join(told)}".strip()


_LIMITS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))


def _members(annotation: Any) -> list[Any]:
    """The members of a union except ``None``; a list of the annotation itself where it is not a union."""
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]
