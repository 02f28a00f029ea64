"""The curve of a run of ours: the validation losses of its first stage, in `metrics.jsonl`.

Later stages were grown: they are no trainings from scratch, and a law does not describe them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError
from outgrow.files.metrics_file import read_rows
from outgrow.files.yaml_file import read_yaml
from outgrow.planning.curves.counting import ParameterCount, law_parameters
from outgrow.planning.curves.curve import Curve, make_curve


def read_metrics_curve(path: Path, count: ParameterCount) -> Curve:
    """Tokens and validation loss of the first stage; raises `ConfigError` with line and field."""
    rows, notes = read_rows(path)
    stages = [(line, row) for line, row in rows if row.get("kind") == "stage"]
    if not stages:
        raise ConfigError(
            f"{path}: no row of kind 'stage', so the model is not known", fix="is this a run's log?"
        )
    config = config_in(path, *stages[0])
    _from_scratch(path)
    names = [_name(path, *one) for one in stages]
    own = [(line, row) for line, row in rows if row.get("stage") == names[0]]
    later = set(names) - {names[0]}
    if later:
        notes += (f"stages after a growth left out: {', '.join(sorted(later))}",)
    found = [(line, row) for line, row in own if row.get("kind") == "validation"]
    train = [(line, row) for line, row in own if row.get("kind") == "train"]
    rates = None
    if train:
        rates = (
            [number_in(path, *one, "tokens") for one in train],
            [_rate(path, *one) for one in train],
        )
    curve = make_curve(
        str(path),
        law_parameters(config, count),
        [number_in(path, *one, "tokens") for one in found],
        [number_in(path, *one, "val_loss") for one in found],
        places=[f"line {line}" for line, _ in found],
        names=("tokens", "val_loss"),
        flops=[number_in(path, *one, "flops") for one in found],
        rates=rates,
        notes=notes,
    )
    return replace(curve, config=config)


def config_in(path: Path, line: int, row: dict[str, Any]) -> Mapping[str, Any]:
    """The model of a stage's row; anything else raises `ConfigError` with the line."""
    config = row.get("config")
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path}, line {line}: the stage's row has no config, so the model is not known")
    return config


def _name(path: Path, line: int, row: dict[str, Any]) -> str:
    name = row.get("stage")
    if not isinstance(name, str):
        raise ConfigError(f"{path}, line {line}: the stage has no name", got=repr(name))
    return name


def number_in(path: Path, line: int, row: dict[str, Any], name: str) -> float:
    """A number of a row; anything else raises `ConfigError` with line and name."""
    return number_at(f"{path}, line {line}", row, name)


def number_at(place: str, row: Mapping[str, Any], name: str) -> float:
    """A number of a row; anything else raises `ConfigError` with the place, in words, and the name."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{place}: {name} is not a number", got=repr(value))
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _rate(path: Path, line: int, row: dict[str, Any]) -> float:
    rate = number_in(path, line, row, "lr")
    if not math.isfinite(rate):
        raise ConfigError(f"{path}, line {line}: lr is not a finite number", got=rate)
    return rate


def _from_scratch(path: Path) -> None:
    """A run that began from a checkpoint counts its tokens from there: no law describes it."""
    run_file = path.parent / "run.yaml"
    if not run_file.is_file():
        return
    try:
        stages = read_yaml(run_file).get("stages")
    except ConfigError as error:
        raise ConfigError(f"{path}: the run.yaml beside it is damaged", got=error) from None
    first = stages[0] if isinstance(stages, list) and stages else None
    if isinstance(first, dict) and first.get("from") is not None:
        raise ConfigError(
            f"{path}: this run did not start from scratch",
            got=f"stages.0.from: {first['from']}",
            fix="fit to runs that begin with a new model",
        )
