"""Staged training on plain PyTorch: train, save, grow, train on; killed at any moment and started again, the same weights."""

from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run
from outgrow.training.dry import DryRun, dry_run
from outgrow.training.loop import train_run
from outgrow.training.result import RunResult, StageResult

__all__ = ["DryRun", "RunConfig", "RunResult", "StageResult", "dry_run", "load_run", "train_run"]
