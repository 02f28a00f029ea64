"""Curves from a CSV of one's own: columns `loss` and `tokens` (or `steps`), a row per point, runs told by the column `run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from outgrow.errors import ConfigError
from outgrow.planning.curves.curve import Curve, make_curve
from outgrow.planning.curves.curve_file import CurveFile
from outgrow.planning.curves.table import Row, Table, cell_number


def read_run_table(table: Table, file: CurveFile) -> tuple[Curve, ...]:
    """One curve per run; raises `ConfigError` with line and column."""
    runs: dict[str, list[Row]] = {}
    for line, row in table.rows:
        runs.setdefault(row.get("run") or "", []).append((line, row))
    if not runs:
        raise ConfigError(f"{table.path}: no rows")
    file.check_runs(list(runs))
    return tuple(_curve(table, name, rows, file) for name, rows in runs.items())


def _curve(table: Table, run: str, rows: Sequence[Row], file: CurveFile) -> Curve:
    path, header = table.path, table.header

    def column(name: str) -> list[float]:
        return [cell_number(path, line, name, row[name]) for line, row in rows]

    places = [f"line {line}" for line, _ in rows]
    unit = "tokens" if "tokens" in header else "steps"
    tokens = column(unit)
    if unit == "steps":
        tokens = [value * file.step_tokens() for value in tokens]
    elif "steps" in header:
        _same_unit(path, places, tokens, column("steps"))
    sizes = column("parameters") if "parameters" in header else [file.parameters_of(run)]
    if len(set(sizes)) > 1:
        change = next(i for i, size in enumerate(sizes) if size != sizes[0])
        raise ConfigError(
            f"{path}, {places[change]}: parameters change inside a curve",
            got=f"{sizes[change]:.10g} after {sizes[0]:.10g}",
            fix="add a column run that names the training each row belongs to",
        )
    return make_curve(
        f"{path}" + (f" (run {run})" if run else ""),
        sizes[0],
        tokens,
        column("loss"),
        places=places,
        names=(unit, "loss"),
        flops=column("flops") if "flops" in header else None,
        rates=(tokens, column("lr")) if "lr" in header else None,
    )


def _same_unit(path: Path, places: Sequence[str], tokens: Sequence[float], steps: Sequence[float]) -> None:
    for place, x, s in zip(places, tokens, steps, strict=True):
        if not abs(x * steps[-1] - s * tokens[-1]) <= 0.02 * s * tokens[-1]:
            raise ConfigError(
                f"{path}, {place}: tokens and steps do not fit together (mixed units?)",
                got=f"{x:.6g} tokens after {s:.6g} steps",
                expected=f"{tokens[-1] / steps[-1]:.6g} tokens per step as at the end",
                fix="keep one of the two columns; with a batch that changes, tokens",
            )
