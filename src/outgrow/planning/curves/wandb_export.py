"""Curves from the CSV that Weights & Biases exports of a chart: a column per run and series, empty where a run has no point.

    "Step","small - eval/loss","small - eval/loss__MIN","small - eval/loss__MAX","large - eval/loss", ...

The columns of extremes are what the chart's shading shows; the value between them is the curve. Exported from the page of
one run, its columns have no run's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from outgrow.errors import ConfigError, near
from outgrow.planning.curves.curve import RATE_NAMES, Curve, make_curve
from outgrow.planning.curves.curve_file import CurveFile
from outgrow.planning.curves.table import Table, cell_number

_BETWEEN = " - "
_EXTREMES = ("__MIN", "__MAX")
_STEPS = frozenset({"step", "_step", "steps", "global_step", "iteration"})
_TOKENS = frozenset(
    {"tokens", "num_tokens", "n_tokens", "tokens_seen", "consumed_tokens", "num_input_tokens_seen"}
)
_OWN = frozenset({"_step", "_runtime", "_timestamp"})
"""Series that W&B keeps for itself."""


def is_wandb_export(table: Table) -> bool:
    """Whether columns are named by run and series, or have their extremes beside them."""
    named = "loss" not in table.header and any(_BETWEEN in name for name in table.header[1:])
    return named or any(_has_extremes(table, name) for name in table.header[1:])


def _has_extremes(table: Table, name: str) -> bool:
    return all(name + end in table.header for end in _EXTREMES)


def read_wandb_export(table: Table, file: CurveFile) -> tuple[Curve, ...]:
    """One curve per run; raises `ConfigError` with line and column.

    The loss is the series `tag`, or the only one. The first column counts steps or tokens. Points at step 0 are left out
    and noted: a law says nothing of a model that has seen no token.
    """
    columns = _columns(table)
    loss = _loss(table, columns, file.tag)
    runs = [run for run, series in columns if series == loss]
    file.check_runs(runs)
    if not table.rows:
        raise ConfigError(f"{table.path}: no rows")
    tokens = _axis(table, file)
    curves = [_curve(table, file, tokens, run, columns, loss) for run in runs]
    without = sorted({run for run, _ in columns if run} - set(runs))
    if without:
        note = f"runs without {loss} left out: {', '.join(without)}"
        curves[0] = replace(curves[0], notes=(*curves[0].notes, note))
    return tuple(curves)


def _columns(table: Table) -> dict[tuple[str, str], str]:
    """(run, series) -> column; a run's name may have dashes, so the last one parts them. The run is "" without a name."""
    found = {}
    for name in table.header[1:]:
        run, between, series = name.rpartition(_BETWEEN)
        if (between or _has_extremes(table, name)) and not series.endswith(_EXTREMES):
            found[run.strip(), series.strip()] = name
    return found


def _loss(table: Table, columns: Iterable[tuple[str, str]], tag: str | None) -> str:
    known = list(dict.fromkeys(s for _, s in columns if not (s in RATE_NAMES or s in _OWN | _counts(s))))
    if tag is not None and tag in known:
        return tag
    if tag is not None:
        raise ConfigError(
            f"{table.path}, line 1: no column of a run is named '{tag}'",
            expected=near(tag, known),
            fix="give tag: <series>, as it stands behind the run's name",
        )
    if len(known) != 1:
        raise ConfigError(
            f"{table.path}, line 1: which series is the loss?"
            if known
            else f"{table.path}, line 1: no series",
            got=", ".join(known) or ", ".join(table.header),
            expected="a column such as 'my-run - eval/loss'" if not known else None,
            fix="give tag: <series>, in plan.yaml as curves: [{path: ..., tag: eval/loss}]"
            if known
            else "export the chart of the loss",
        )
    return known[0]


def _counts(series: str) -> frozenset[str]:
    """The series itself, where it counts steps or tokens."""
    last = series.rpartition("/")[2].casefold()
    return frozenset({series}) if last in _STEPS | _TOKENS else frozenset()


def _axis(table: Table, file: CurveFile) -> list[float]:
    """Tokens of every row."""
    name = table.header[0]
    last = name.rpartition("/")[2].casefold()
    if last not in _STEPS | _TOKENS:
        raise ConfigError(
            f"{table.path}, line 1: the first column counts neither steps nor tokens",
            got=name,
            expected="Step, train/global_step, train/num_input_tokens_seen or the like",
            fix="choose another x axis for the chart, and export it again",
        )
    values = [cell_number(table.path, line, name, row[name]) for line, row in table.rows]
    if last in _TOKENS:
        file.refuse("tokens_per_step", why=f"the column {name} counts tokens")
        return values
    return [value * file.step_tokens() for value in values]


def _curve(
    table: Table,
    file: CurveFile,
    tokens: list[float],
    run: str,
    columns: dict[tuple[str, str], str],
    loss: str,
) -> Curve:
    x, y, places = _points(table, tokens, columns[run, loss])
    if not x:
        raise ConfigError(f"{table.path}: the column '{columns[run, loss]}' is empty")
    rate = next((columns[run, name] for name in RATE_NAMES if (run, name) in columns), None)
    rates = None
    if rate is not None:
        rate_tokens, values, where = _points(table, tokens, rate)
        _check_finite(table, rate, values, where)
        rates = (rate_tokens, values) if values else None
    begun = [place for place, value in enumerate(x) if value != 0]
    left = len(x) - len(begun)
    return make_curve(
        f"{table.path}" + (f" (run {run})" if run else ""),
        file.parameters_of(run),
        [x[place] for place in begun],
        [y[place] for place in begun],
        places=[places[place] for place in begun],
        names=(table.header[0], columns[run, loss]),
        rates=rates,
        notes=(f"{left} points before the first token left out",) if left else (),
    )


def _points(table: Table, tokens: list[float], column: str) -> tuple[list[float], list[float], list[str]]:
    """Tokens, values and places of the rows in which a column is not empty."""
    full = [
        (x, cell_number(table.path, line, column, text), f"line {line}")
        for x, (line, row) in zip(tokens, table.rows, strict=True)
        if (text := (row[column] or "").strip())
    ]
    return [x for x, _, _ in full], [y for _, y, _ in full], [place for _, _, place in full]


def _check_finite(table: Table, column: str, values: list[float], places: list[str]) -> None:
    for value, place in zip(values, places, strict=True):
        if not np.isfinite(value):
            raise ConfigError(f"{table.path}, {place}: {column} is not a finite number", got=value)
