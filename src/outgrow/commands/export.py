"""`outgrow export`: a state written in another format, streamed from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from outgrow.commands.writing import read_state
from outgrow.engine.progress import bytes_progress
from outgrow.files.atomic import check_destination
from outgrow.parallel.ranks import Ranks
from outgrow.text.numbers import amount


def export_command(
    checkpoint: Path,
    out: Path,
    *,
    format: str,
    overwrite: bool,
    allow_nonfinite: bool,
    console: Console,
    ranks: Ranks,
) -> dict[str, Any]:
    """Write the state again, every process its share; returns plain data. The destination is checked before any work."""
    check_destination(out, overwrite=overwrite)
    state = read_state(checkpoint, console, allow_nonfinite=allow_nonfinite, ranks=ranks)
    with bytes_progress("writing", show=not console.quiet) as progress:
        state.save_pretrained(out, format=format, overwrite=overwrite, progress=progress, ranks=ranks)  # type: ignore[arg-type]
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    console.print(f"Written: {out} ({amount(size)}B)", soft_wrap=True)
    return {"output": str(out), "format": format, "bytes": size}
