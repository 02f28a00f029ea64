"""TensorBoard as a mirror of metrics.jsonl: optional, and never the only record."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from outgrow.errors import ConfigError

_SCALARS = (
    "loss",
    "val_loss",
    "val_accuracy",
    "lr",
    "grad_norm",
    "tokens_per_second",
    "loss_before",
    "loss_after",
)


class Mirror(Protocol):
    """Receives every row of the log."""

    def write(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class NoMirror:
    """Nothing."""

    def write(self, row: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardMirror:
    """Scalars by step; rows after `step` of an earlier, killed process are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, row: dict[str, Any]) -> None:
        for name in _SCALARS:
            if name in row:
                self._writer.add_scalar(f"{row['kind']}/{name}", row[name], row["step"])

    def close(self) -> None:
        self._writer.close()


def make_mirror(wanted: bool, root: Path, step: int) -> Mirror:
    """A writer to `<root>/tensorboard`, or nothing."""
    return TensorBoardMirror(root / "tensorboard", step) if wanted else NoMirror()


def check_tensorboard() -> None:
    """The library is there, or an error says how to get it."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tensorboard: the library is not installed",
            fix="pip install -e '.[tensorboard]' in outgrow's clone",
        )
