"""Staged training on plain PyTorch: train, save, grow, train on; killed at any moment and started again, the same weights."""

from outgrow.train.config import RunConfig
from outgrow.train.dry import DryRun, dry_run
from outgrow.train.loop import train
from outgrow.train.result import RunResult, StageResult
from outgrow.train.run_file import load_run

__all__ = ["DryRun", "RunConfig", "RunResult", "StageResult", "dry_run", "load_run", "train"]
