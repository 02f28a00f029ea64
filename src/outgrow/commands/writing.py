"""Reading and writing, seen from the outside: how fast this disk is, and a bar while it happens."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.commands.console import open_console
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


@contextmanager
def bytes_progress(console: Console, what: str = "writing") -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes, speed and time left, on standard error where that is a terminal; nothing if `console` is quiet."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = open_console(errors=True, quiet=console.quiet)
    # where nobody looks on, rich would still end the bar with an empty line
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def read_state(
    checkpoint: Path,
    console: Console,
    *,
    allow_nonfinite: bool = False,
    headers_only: bool = False,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """`TrainingState.from_pretrained` with a bar, as every byte is looked at."""
    with bytes_progress(console, "reading") as progress:
        return TrainingState.from_pretrained(
            checkpoint,
            allow_nonfinite=allow_nonfinite,
            headers_only=headers_only,
            progress=progress,
            ranks=ranks,
        )
