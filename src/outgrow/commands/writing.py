"""Reading and writing for a command: how fast this disk is, and a state opened with a bar."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.engine.progress import bytes_progress
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.state.training_state import TrainingState

if TYPE_CHECKING:
    from rich.console import Console


def writing_speed(folder: Path, megabytes: int = 64) -> float | None:
    """Bytes per second of a short synced write into `folder`; None where it cannot be written."""
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            for _ in range(megabytes):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return (megabytes << 20) / (time.perf_counter() - start)
    except OSError:
        return None


def written_line(source: Path, out: Path) -> str:
    """Where a state is now, and how to prove it: not where it took the place of its own source."""
    proof = shlex.join(["outgrow", "verify", str(source), str(out)])
    hint = "" if source.resolve() == out.resolve() else f"   (prove it: {proof})"
    return f"Written: {out}{hint}"


def read_state(
    checkpoint: Path,
    console: Console,
    *,
    allow_nonfinite: bool = False,
    headers_only: bool = False,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """`TrainingState.from_pretrained` with a bar, as every byte is looked at."""
    with bytes_progress("reading", show=not console.quiet) as progress:
        return TrainingState.from_pretrained(
            checkpoint,
            allow_nonfinite=allow_nonfinite,
            headers_only=headers_only,
            progress=progress,
            ranks=ranks,
        )
