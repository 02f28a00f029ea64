"""Rows of a `metrics.jsonl`, every damaged line named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError

_DAMAGED = "the file is damaged: bring it back, or delete the run"


def read_rows(path: Path) -> tuple[list[tuple[int, dict[str, Any]]], tuple[str, ...]]:
    """Line numbers and rows; a last line cut short by a kill is left out, and noted."""
    lines = path.read_bytes().split(b"\n")
    notes = ("the last line is cut short and left out",) if lines[-1].strip() else ()
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: not JSON", got=str(error), fix=_DAMAGED) from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: not a row", got=type(row).__name__, fix=_DAMAGED)
        rows.append((number, row))
    return rows, notes
