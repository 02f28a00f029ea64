"""`outgrow convert`: a state described as another model type, streamed from file to file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from outgrow.commands.writing import read_state
from outgrow.engine.progress import bytes_progress
from outgrow.errors import ConfigError
from outgrow.files.atomic import check_destination
from outgrow.models.conversion import conversion
from outgrow.state.converting import converted
from outgrow.store.config_file import load_config


def convert_command(
    checkpoint: Path,
    out: Path,
    to: str,
    *,
    moments: str,
    seed: int,
    format: str,
    overwrite: bool,
    dry_run: bool,
    allow_nonfinite: bool,
    console: Console,
) -> dict[str, Any]:
    """Say what becomes what, and write it; returns plain data. Fields, names and shapes are checked before any tensor is read:
    a dry run ends there."""
    if moments not in ("transport", "reset"):
        raise ConfigError(
            f"a conversion cannot treat moments as '{moments}'",
            expected="transport (they move with their entries) or reset",
        )
    found = conversion(load_config(checkpoint), to)
    check_destination(out, overwrite=overwrite)
    state = converted(
        read_state(checkpoint, console, allow_nonfinite=allow_nonfinite, headers_only=dry_run),
        found,
        moments=moments,
        seed=seed,
    )
    new = sorted(
        {found.large.parameters[name].tail for name, made in found.tensors.items() if not made.sources}
    )
    moved = sum(bool(made.sources) for made in found.tensors.values())
    console.print(
        f"{found.spec.from_} → {to}: {moved} tensors moved"
        + (f", new: {', '.join(new)}" if new else "")
        + ". The function is kept."
    )
    if not dry_run:
        with bytes_progress("writing", show=not console.quiet) as progress:
            state.save_pretrained(out, format=format, overwrite=overwrite, progress=progress)  # type: ignore[arg-type]
        console.print(f"Written: {out}   (prove it: outgrow verify {checkpoint} {out})")
    return {**found.describe(), "moments": moments, "new": new, "output": str(out)}
