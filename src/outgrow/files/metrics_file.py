"""Rows of a `metrics.jsonl`, every damaged line named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError
from outgrow.files.reading import read_lines

_DAMAGED = "the file is damaged: bring it back, or delete the run"


def read_rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], tuple[str, ...]]:
    """Line numbers and rows; a last line cut short by a kill is left out, and noted."""
    notes: tuple[str, ...] = ()
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        if not line.endswith(b"\n"):
            notes = ("the last line is cut short and left out",)
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: not JSON", got=str(error), fix=_DAMAGED) from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: not a row", got=type(row).__name__, fix=_DAMAGED)
        rows.append((number, row))
    return rows, notes


_PLACE = {"stage": str, "step": float, "tokens": float, "flops": float, "seconds": float}
_ROWS: Mapping[str, Mapping[str, type]] = {
    "machine": {"versions": dict},
    "stage": {**_PLACE, "parameters": float, "config": dict},
    "train": {**_PLACE, "loss": float, "lr": float, "grad_norm": float},
    "validation": {**_PLACE, "val_loss": float},
    "growth": {**_PLACE, "loss_before": float, "loss_after": float},
}
"""What is read of a row, by its kind."""


def check_row(path: Path, line: int, row: Mapping[str, Any]) -> None:
    """Raise ConfigError where a row lacks what is read of it, or has it of another type."""
    kind = row.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"{path}, line {line}: the row does not say its kind", got=repr(kind), fix=_DAMAGED)
    for name, wanted in _ROWS.get(kind, {}).items():
        value = row.get(name)
        number = type(value) in (int, float)
        if not (number if wanted is float else isinstance(value, wanted)):
            expected = {float: "a number", str: "a text", dict: "an object"}[wanted]
            raise ConfigError(
                f"{path}, line {line}: {name} of a row '{kind}'", got=value, expected=expected, fix=_DAMAGED
            )
