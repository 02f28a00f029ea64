"""`run.yaml` to `RunConfig`: overrides applied, and every mistake named with its line or its dotted key.

run.yaml + `--set a.b=1` -> RunConfig (frozen) -> saved beside the output, where it can be run again
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from outgrow.errors import ConfigError, near
from outgrow.reentry import Curve, Ratio, Reentry
from outgrow.schedule import WSD, Constant, Cosine, Linear
from outgrow.train.after_growth import FreezeConfig, MasksConfig, NewEntriesConfig
from outgrow.train.config import (
    BatchConfig,
    CandidateConfig,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    GrowConfig,
    ProbeConfig,
    RunConfig,
    StageConfig,
    TokenizerConfig,
)
from outgrow.train.learn_config import LearnConfig, LesaConfig
from outgrow.train.optimizer_config import OPTIMIZERS
from outgrow.train.trigger import UntilEfficiency, UntilLoss


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and apply `a.b=value` overrides (values are YAML, list places are numbers).

    >>> load_run("examples/quickstart.yaml", ["stages.0.tokens=1M", "optimizer.learning_rate=2e-3"])  # doctest: +SKIP
    """
    path = Path(path)
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return parse_run(data, where=str(path))


def parse_run(data: Mapping[str, Any], where: str = "the run") -> RunConfig:
    """A run from plain data; a wrong key or value raises `ConfigError` that names it."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data, where, SECTIONS)) from None


def dump_yaml(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, in its own order."""
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True))


_ODD = (TypeError, ValueError, RecursionError)
"""What PyYAML lets through: a mapping as a key, a day that is none, endless nesting."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file, every mistake with its line. Never builds an object."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {path}", got=error.strerror) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8 text: {path}", got=str(error)) from None
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


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


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
            if not part.isdigit() or int(part) >= len(here):
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


Sections = Mapping[str, tuple[type[BaseModel], ...]]
"""Dotted place in a file -> the sections that may stand there: whose keys are near a mistyped one."""

SECTIONS: Sections = {
    "": (RunConfig,),
    "data": (DataConfig,),
    "data.tokenizer": (TokenizerConfig,),
    "optimizer": tuple(OPTIMIZERS.values()),
    "schedule": (Constant, Linear, Cosine, WSD),
    "batch": (BatchConfig,),
    "stages": (StageConfig,),
    "stages.grow": (GrowConfig,),
    "stages.grow.probe": (ProbeConfig,),
    "stages.grow.probe.candidates": (CandidateConfig,),
    "stages.grow.learn": (LearnConfig, LesaConfig),
    "stages.new_entries": (NewEntriesConfig,),
    "stages.freeze": (FreezeConfig,),
    "stages.masks": (MasksConfig,),
    "stages.reentry": (Reentry,),
    "stages.reentry.position": (Ratio, Curve),
    "stages.until": (UntilLoss, UntilEfficiency),
    "evaluation": (EvaluationConfig,),
    "checkpoint": (CheckpointConfig,),
}


def explain(error: ValidationError, data: Mapping[str, Any], where: str, sections: Sections) -> str:
    """One block per mistake: the dotted key, what was found, what is expected."""
    blocks = []
    for problem in error.errors():
        parts = _location(problem["loc"], data, missing=problem["type"] == "missing")
        key = ".".join(map(str, parts))
        if problem["type"] == "too_short" and problem["input"]:
            continue  # pydantic counts only the valid items; their own mistakes are already listed
        kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            text = f"{where}: unknown key {key}\n  expected: {near(str(parts[-1]), _known_keys(parts[:-1], sections, problem['loc']))}"
        elif kind == "union_tag_invalid" and key == "optimizer":
            tag = str(problem["ctx"]["tag"])
            text = f"{where}: unknown optimizer.name '{tag}'\n  expected: {near(tag, OPTIMIZERS)}"
        elif kind == "missing":
            text = f"{where}: the key {key} is missing"
        else:
            got = problem["input"]
            place = f"{where}: {key}" if key else where
            text = f"{place}: {message}" + (f"\n  got:      {got!r}" if not isinstance(got, dict) else "")
        blocks.append(text)
    return "\n".join(blocks)


def _location(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[int | str]:
    """The place in the user's file: pydantic also names the branch of a union, which is not a key."""
    parts: list[int | str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            parts.append(part)
            data = data[part]
        elif last and missing:
            parts.append(part)
    return parts


def _known_keys(
    parents: Sequence[int | str], sections: Sections, location: tuple[int | str, ...]
) -> list[str]:
    """The keys that the section at this place has; of several kinds, those of all, or of the one that was named."""
    place = ".".join(part for part in parents if isinstance(part, str))
    models = sections.get(place, ())
    named = tuple(one for name, one in OPTIMIZERS.items() if name in location and one in models)
    return sorted(
        {
            field.serialization_alias or name
            for model in named or models
            for name, field in model.model_fields.items()
        }
    )
