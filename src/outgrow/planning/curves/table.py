"""A CSV file as rows with their line numbers, and its cells as numbers."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outgrow.errors import ConfigError
from outgrow.files.reading import read_lines

Row = tuple[int, Mapping[str, str | None]]
"""A line's number, and its cells by column; None where the line ends before the column."""


@dataclass(frozen=True)
class Table:
    """The rows of a file under its header; never empty."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """A CSV file; raises `ConfigError` for other files, columns given twice, cells beyond the header, and no rows."""
    try:
        reader = csv.DictReader(
            line.decode("utf-8-sig" if n == 0 else "utf-8") for n, line in enumerate(read_lines(path))
        )
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = tuple((reader.line_num, row) for row in reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a table", got=error, expected="CSV in UTF-8") from None
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{path}, line 1: a column is given twice",
            got=", ".join(twice),
            fix="give every column, and every run, a name of its own",
        )
    for line, row in rows:
        if None in row:  # where DictReader puts the rest of a line
            raise ConfigError(
                f"{path}, line {line}: more cells than columns",
                got=len(header) + len(row[None]),
                expected=len(header),
                fix="write decimals with a point, and put cells with commas in quotes",
            )
    return Table(path, tuple(header), rows)


def cell_number(path: Path, line: int, name: str, text: str | None) -> float:
    """A cell as a number; anything else raises `ConfigError` with line and column."""
    try:
        return float(text or "")
    except ValueError:
        raise ConfigError(
            f"{path}, line {line}: {name} is not a number",
            got=repr(text),
            expected="a plain number in one unit for the whole file, as 2000000 or 2e6",
        ) from None
