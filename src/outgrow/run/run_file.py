"""`run.yaml` to `RunConfig`: overrides applied, and every mistake named with its line or its dotted key.

run.yaml + `--set a.b=1` -> RunConfig (frozen) -> saved beside the output, where it can be run again
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from outgrow.errors import ConfigError
from outgrow.files.mistakes import explain
from outgrow.files.yaml_file import _Loader, apply_override, read_yaml
from outgrow.run.config import RunConfig


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
        raise ConfigError(explain(error, data, where, RunConfig)) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
