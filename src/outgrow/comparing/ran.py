"""What a piece came to, read from its folder: nothing is trained, and no state is opened.

metrics.jsonl   losses, tokens, FLOPs, seconds of growths
latest.json     whether it is finished
diverged.json   a piece of a sweep that came to a loss that is no number
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.comparing.pieces import Piece
from outgrow.files.atomic import write_json_atomic
from outgrow.training.folder import RunFolder, finished_metrics, read_metrics

_DIVERGED = "diverged.json"


@dataclass(frozen=True)
class Ran:
    """What one piece came to, read from its log."""

    loss: float
    accuracy: float | None
    tokens: int
    flops: float
    growth_seconds: float
    taught_tokens: int
    """For which the model before it was asked too."""
    config: dict[str, Any]
    """Of its model."""


def ran(piece: Piece, folder: str) -> Ran:
    """Read the log of a finished piece."""
    rows = finished_metrics(RunFolder(Path(folder) / piece.key))
    last = [row for row in rows if row["kind"] == "validation"][-1]
    stage = next(row for row in rows if row["kind"] == "stage")
    return Ran(
        loss=last["val_loss"],
        accuracy=last.get("val_accuracy"),
        tokens=last["tokens"],
        flops=last["flops"],
        growth_seconds=sum(row["growth_seconds"] for row in rows if row["kind"] == "growth"),
        taught_tokens=min(stage.get("taught_tokens", 0), last["tokens"]),
        config=stage["config"],
    )


def is_finished(piece: Piece, folder: str) -> bool:
    """Whether a piece is there."""
    return RunFolder(Path(folder) / piece.key).is_finished


def diverged(piece: Piece, folder: str) -> bool:
    """Whether a piece, or one before it, came to a loss that is no number."""
    return any((Path(folder) / one.key / _DIVERGED).is_file() for one in piece.line)


def is_done(piece: Piece, folder: str) -> bool:
    """Whether nothing is left to train of a piece: it is there, or its rate diverged."""
    return is_finished(piece, folder) or diverged(piece, folder)


def note_divergence(piece: Piece, folder: str, error: Exception) -> None:
    """Keep that a piece diverges, so that nobody trains it again."""
    write_json_atomic(Path(folder) / piece.key / _DIVERGED, {"error": str(error)})


def flops_of(piece: Piece, folder: str) -> float:
    """FLOPs that a piece used, up to the last row of its log where it diverged."""
    rows = read_metrics(RunFolder(Path(folder) / piece.key).metrics)
    return max((row["flops"] for row in rows if "flops" in row), default=0.0)
