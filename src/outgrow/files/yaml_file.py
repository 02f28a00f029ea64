"""YAML files of ours: read safely, and changed by `--set`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from outgrow.errors import ConfigError
from outgrow.files.reading import read_text


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order."""
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True))


_MOST_BYTES = 128 << 10
"""Of a file: more than a hundred arms of a study, and read in a few seconds."""
_MOST_VALUES = 20_000
"""In a file, each alias counted as all that it stands for."""
_ODD = (TypeError, ValueError, RecursionError)
"""What PyYAML lets through: a mapping as a key, a day that is none, endless nesting."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, every mistake with its line. Never builds an object."""
    return parse_yaml(read_text(path, _MOST_BYTES), path)


def parse_yaml(text: str, path: object) -> dict[str, Any]:
    """A mapping from the text of a YAML file, which messages call `path`."""
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader: no object is ever built
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise ConfigError(
            f"invalid YAML in {path}{line}",
            got=getattr(error, "problem", None) or str(error),
            fix="correct this line",
        ) from None
    except _ODD as error:
        raise ConfigError(f"invalid YAML in {path}", got=error, fix="put words in quotes") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} is not a file of keys and values",
            got=type(data).__name__,
            expected="a mapping of keys to values",
        )
    return data


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without repeated keys (the second one would silently win), and with `1e-6` a number as in YAML 1.2."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _values(node, {}) > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MOST_VALUES:,} values, aliases counted as what they stand for",
                problem_mark=node.start_mark,
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, seen: dict[int, int | None]) -> int:
    """How many values a node is, with all that its aliases stand for; `seen` is None for those that are being counted."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in seen:
        seen[id(node)] = None
        inside = (
            node.value
            if isinstance(node, yaml.SequenceNode)
            else [part for pair in node.value for part in pair]
        )
        seen[id(node)] = 1 + sum(_values(part, seen) for part in inside)
    found = seen[id(node)]
    if found is None:
        raise yaml.MarkedYAMLError(problem="an alias stands for itself", problem_mark=node.start_mark)
    return found


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one dotted key, as `--set` does."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            "an override is not of the form key=value", got=override, expected="optimizer.learning_rate=2e-3"
        )
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *_ODD):
        raise ConfigError(f"the value of {key} is not valid YAML", got=text) from None
    here: Any = data
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(here):
                place = ".".join(parts[:depth])
                raise ConfigError(
                    f"{key}: no such place in {place}",
                    got=part,
                    expected=f"a number from 0 to {len(here) - 1}",
                )
            index: Any = int(part)
        elif isinstance(here, dict):
            index = part
        else:
            raise ConfigError(f"{key}: {'.'.join(parts[:depth])} has no parts", got=here)
        if last:
            here[index] = value
        elif isinstance(here, list):
            here = here[index]
        else:
            if here.get(index) is None:
                here[index] = {}
            here = here[index]
