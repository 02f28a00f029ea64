"""Curve files of three kinds: our own `metrics.jsonl`, CSV, TensorBoard event files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from outgrow.errors import ConfigError
from outgrow.files.reading import check_regular, expanded, read_lines
from outgrow.planning.curves.counting import ParameterCount
from outgrow.planning.curves.curve import Curve, make_curve
from outgrow.planning.curves.metrics import read_metrics_curve
from outgrow.planning.curves.tensorboard import is_event_file, read_event_curve


@dataclass(frozen=True)
class CurveFile:
    """A file, and what it does not say itself.

    `parameters` for CSV without that column and for TensorBoard; `tokens_per_step` where the file counts steps; `tag` is the
    scalar of a TensorBoard file.
    """

    path: Path
    parameters: float | None = None
    tokens_per_step: float | None = None
    tag: str = "validation/val_loss"


def read_curves(file: CurveFile, count: ParameterCount = "all") -> tuple[Curve, ...]:
    """The curves of a file or run folder: one, or in a CSV one per value of its column `run`.

    `count` says how parameters are counted where the file holds a model's configuration (metrics.jsonl).
    """
    path = expanded(file.path)
    if path.is_dir() and (path / "metrics.jsonl").is_file():
        path = path / "metrics.jsonl"
    if not path.exists():
        raise ConfigError(
            f"no such curve file: {path}", fix="give a metrics.jsonl, a run folder, a .csv, or event files"
        )
    if not path.is_dir():
        check_regular(path)
    if path.suffix == ".jsonl":
        _not_needed(file, "metrics.jsonl counts tokens and names the model")
        return (read_metrics_curve(path, count),)
    if path.suffix == ".csv":
        return _read_csv(path, file)
    if is_event_file(path):
        return (read_event_curve(path, _parameters(file), _tokens_per_step(file), file.tag),)
    raise ConfigError(
        f"not a curve file: {path}", expected="metrics.jsonl, a .csv, or TensorBoard event files"
    )


def _not_needed(file: CurveFile, why: str) -> None:
    if file.parameters is not None or file.tokens_per_step is not None:
        raise ConfigError(
            f"{file.path}: parameters and tokens_per_step are given, but {why}", fix="leave both out"
        )


def _parameters(file: CurveFile) -> float:
    if file.parameters is None:
        raise ConfigError(
            f"{file.path}: the file does not say how many parameters the model has",
            fix="give parameters, in plan.yaml as curves: [{path: ..., parameters: 10M}]",
        )
    return file.parameters


def _tokens_per_step(file: CurveFile) -> float:
    if file.tokens_per_step is None:
        raise ConfigError(
            f"{file.path}: the file counts steps, not tokens",
            fix="give tokens_per_step, in plan.yaml as curves: [{path: ..., tokens_per_step: 64k}]",
        )
    return file.tokens_per_step


def _read_csv(path: Path, file: CurveFile) -> tuple[Curve, ...]:
    try:
        reader = csv.DictReader(
            line.decode("utf-8-sig" if n == 0 else "utf-8") for n, line in enumerate(read_lines(path))
        )
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a table", got=error, expected="CSV in UTF-8") from None
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}, line 1: a column is given twice", got=", ".join(header))
    if "loss" not in header or not {"tokens", "steps"} & set(header):
        raise ConfigError(
            f"{path}, line 1: a curve needs the columns loss and tokens (or steps)", got=", ".join(header)
        )
    runs: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for line, row in rows:
        runs.setdefault(row.get("run") or "", []).append((line, row))
    if not rows:
        raise ConfigError(f"{path}: no rows")
    return tuple(_csv_curve(path, name, header, own, file) for name, own in runs.items())


def _csv_curve(
    path: Path, run: str, header: list[str], rows: list[tuple[int, dict[str, str]]], file: CurveFile
) -> Curve:
    def column(name: str) -> list[float]:
        return [_number(path, line, name, row[name]) for line, row in rows]

    places = [f"line {line}" for line, _ in rows]
    unit = "tokens" if "tokens" in header else "steps"
    tokens = column(unit)
    if unit == "steps":
        tokens = [value * _tokens_per_step(file) for value in tokens]
    elif "steps" in header:
        _same_unit(path, places, tokens, column("steps"))
    sizes = column("parameters") if "parameters" in header else [_parameters(file)]
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


def _number(path: Path, line: int, name: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ConfigError(
            f"{path}, line {line}: {name} is not a number",
            got=repr(text),
            expected="a plain number in one unit for the whole file, as 2000000 or 2e6",
        ) from None


def _same_unit(path: Path, places: list[str], tokens: list[float], steps: list[float]) -> None:
    for place, x, s in zip(places, tokens, steps, strict=True):
        if not abs(x * steps[-1] - s * tokens[-1]) <= 0.02 * s * tokens[-1]:
            raise ConfigError(
                f"{path}, {place}: tokens and steps do not fit together (mixed units?)",
                got=f"{x:.6g} tokens after {s:.6g} steps",
                expected=f"{tokens[-1] / steps[-1]:.6g} tokens per step as at the end",
                fix="keep one of the two columns; with a batch that changes, tokens",
            )
