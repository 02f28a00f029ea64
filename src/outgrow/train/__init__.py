"""Staged training on plain PyTorch: train, save, grow, train on; killed at any moment and started again, the same weights."""

from .config import RunConfig
from .dry import DryRun, dry_run
from .loop import train
from .result import RunResult, StageResult
from .run_file import load_run

__all__ = ["DryRun", "RunConfig", "RunResult", "StageResult", "dry_run", "load_run", "train"]
