"""Curve files of every kind: our own `metrics.jsonl`, CSV, a Trainer's `trainer_state.json`, TensorBoard event files."""

from __future__ import annotations

from pathlib import Path

from outgrow.errors import ConfigError
from outgrow.files.reading import check_regular, expanded
from outgrow.planning.curves.counting import ParameterCount
from outgrow.planning.curves.curve import Curve
from outgrow.planning.curves.curve_file import CurveFile
from outgrow.planning.curves.metrics import read_metrics_curve
from outgrow.planning.curves.run_table import read_run_table
from outgrow.planning.curves.table import read_table
from outgrow.planning.curves.tensorboard import is_event_file, read_event_curve
from outgrow.planning.curves.trainer_log import STATE_FILE, read_trainer_curve, state_file
from outgrow.planning.curves.wandb_export import is_wandb_export, read_wandb_export

_KINDS = f"a metrics.jsonl, a run folder, a .csv, a {STATE_FILE}, or event files"


def read_curves(file: CurveFile, count: ParameterCount = "all") -> tuple[Curve, ...]:
    """The curves of a file or run folder: one, or in a CSV one per run.

    `count` says how parameters are counted where the file names the model (metrics.jsonl, a config.json beside
    trainer_state.json). Raises `ConfigError` with file, place and field.
    """
    path = _file_in(expanded(file.path))
    if not path.exists():
        raise ConfigError(f"no such curve file: {path}", fix=f"give {_KINDS}")
    if not path.is_dir():
        check_regular(path)
    if path.suffix == ".jsonl":
        file.refuse("parameters", "tokens_per_step", why="metrics.jsonl counts tokens and names the model")
        return (read_metrics_curve(path, count),)
    if path.suffix == ".csv":
        return _read_csv(path, file)
    if path.suffix == ".json":
        return (read_trainer_curve(path, file, count),)
    if is_event_file(path):
        return (read_event_curve(path, file.parameters_of(), file.step_tokens(), file.tag),)
    raise ConfigError(f"not a curve file: {path}", expected=_KINDS)


def _file_in(path: Path) -> Path:
    """The log of a run folder; else the path itself."""
    if not path.is_dir():
        return path
    if (path / "metrics.jsonl").is_file():
        return path / "metrics.jsonl"
    return path if is_event_file(path) else state_file(path) or path


def _read_csv(path: Path, file: CurveFile) -> tuple[Curve, ...]:
    table = read_table(path)
    if is_wandb_export(table):
        return read_wandb_export(table, file)
    if "loss" not in table.header or not {"tokens", "steps"} & set(table.header):
        raise ConfigError(
            f"{path}, line 1: a curve needs the columns loss and tokens (or steps)",
            got=", ".join(table.header),
            fix="name them so, or give an export of W&B, whose columns are named 'run - series'",
        )
    return read_run_table(table, file)
