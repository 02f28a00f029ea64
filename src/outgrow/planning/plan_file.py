"""`plan.yaml` to `PlanConfig`, with overrides, and every mistake named with its line or dotted key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from outgrow.errors import ConfigError
from outgrow.files.mistakes import explain
from outgrow.files.yaml_file import apply_override, read_yaml
from outgrow.planning.config import PlanConfig


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> PlanConfig:
    """Read a plan file and apply `a.b=value` overrides.

    >>> load_plan("examples/plan.yaml", ["target.loss=3.2"])  # doctest: +SKIP
    """
    data = read_yaml(Path(path))
    for override in overrides:
        apply_override(data, override)
    return parse_plan(data, where=str(path))


def parse_plan(data: Mapping[str, Any], where: str = "the plan") -> PlanConfig:
    """A plan from plain data; a wrong key or value raises `ConfigError` that names it."""
    try:
        return PlanConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data, where, PlanConfig)) from None
