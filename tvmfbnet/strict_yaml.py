"""Strict YAML for configuration: plain values only, unique names, no surprises, and limits beyond any real file.

PyYAML turns some text into dates, keeps the last of two duplicate names, follows recursive aliases, and lets nine lines
expand into millions of values. Here every value is text, a number, boolean, list or mapping; otherwise the file is
rejected with the offending line. Numbers with an exponent may omit their point (``1e-3``), as in YAML 1.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent
from yaml.nodes import MappingNode, Node, ScalarNode

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:  # several times as fast where libyaml is there
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_DEPTH = 40
_VALUES = 100_000
_LETTERS = 100  # long text counts as one value per this many letters
_INTEGER = 2**64
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null", "merge")
)
_FLOAT = "tag:yaml.org,2002:float"
_NUMBERS = ("tag:yaml.org,2002:int", _FLOAT)
# YAML 1.1 reads 1:30 as 90, 010 as 8 and 1_0 as 10.
_SURPRISING = re.compile(r"[-+]?0[0-9]|.*[:_]")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


def parse_yaml(text: str) -> Any:
    """The value of one YAML document; ``yaml.YAMLError`` with a mark where it is malformed or beyond the limits."""
    _check_size(text)
    loader = _PlainLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _check_size(text: str) -> None:
    """Rejects deep nesting, cycles, and documents that expand into too many values; reads events, builds nothing."""
    opened: list[tuple[str | None, int]] = []  # anchor, and the number of values before it
    sizes: dict[str, int] = {}
    count = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, AliasEvent):
            if event.anchor in {anchor for anchor, _ in opened}:
                raise _problem(event, f"*{event.anchor} stands inside what it repeats")
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, CollectionStartEvent):
            opened.append((event.anchor, count))
            count += 1
            if len(opened) > _DEPTH:
                raise _problem(event, f"nested more than {_DEPTH} deep")
        elif isinstance(event, CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, ScalarEvent):
            size = 1 + len(event.value) // _LETTERS
            count += size
            if event.anchor is not None:
                sizes[event.anchor] = size
        if count > _VALUES:
            raise _problem(event, f"more than {_VALUES} values")


def _problem(at: Event | Node, what: str) -> ConstructorError:
    mark: Any = at.start_mark  # libyaml has its own mark class
    return ConstructorError(None, None, what, mark)


class _PlainLoader(_Loader):  # type: ignore[misc, unused-ignore]
    """Builds plain values; any invalid value is a YAML error with its line."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            name = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _problem(node, f"values of type {name} are not supported; put text in quotes")
        if node.tag in _NUMBERS and isinstance(node, ScalarNode) and _SURPRISING.match(node.value):
            raise _problem(node, f"{node.value[:40]!r} is not a plain number; put text in quotes")
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            shown = node.value[:40] if isinstance(node, ScalarNode) else ""
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _problem(node, f"{shown!r} is not a valid value of type {kind}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise _problem(node, f"{node.value[:40]} is not a finite number")
        if isinstance(value, int) and abs(value) > _INTEGER:
            raise _problem(node, "a number beyond 64 bits is too large for anything here")
        return value

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise _problem(key_node, "a name must be text; put it in quotes")
            if key in seen:
                raise _problem(key_node, f"{key!r} is given twice, first in line {seen[key]}")
            seen[key] = key_node.start_mark.line + 1
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


# Dates stay text: no setting is a date, and `2024-13-45` is not a valid one.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$", re.ASCII), list("-+.0123456789")
)
