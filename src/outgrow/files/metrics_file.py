"""Rows of a `metrics.jsonl`, every damaged line named."""

from __future__ import annotations

import json
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
