"""`outgrow quickstart`: a model that grows, beside the same model from scratch, for the same FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console

from outgrow.commands.console import open_console
from outgrow.report.beside import CAUTIONS, read_beside, write_comparison
from outgrow.report.run import run_report
from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run
from outgrow.training.loop import train_run
from outgrow.training.result import machine
from outgrow.training.scratch import scratch_twin


def quickstart_command(
    output: Path | None, overrides: Sequence[str] = (), *, console: Console
) -> dict[str, Any]:
    """Do both runs, or what is left of them, and end with a sentence, a table and a picture; returns plain data."""
    run = quickstart_run(output, overrides)
    root, notes = Path(run.output), open_console(errors=True, quiet=console.quiet)
    notes.print(
        f"1 of 2: a small model trains, grows, trains on (configuration: {root / 'run.yaml'})", soft_wrap=True
    )
    staged = train_run(run, progress=not console.quiet)
    run_report(root)
    twin = scratch_twin(run, staged, str(root / "scratch"))
    notes.print("2 of 2: the large model from scratch, for the same FLOPs")
    train_run(twin, progress=not console.quiet)
    beside = read_beside(root, root / "scratch")
    html, png = write_comparison(
        beside, root, (root / "run.yaml").read_text(encoding="utf-8"), machine()["command"]
    )
    console.print()
    console.print(beside.verdict, style="bold", markup=False)
    console.print(beside.table().rich())
    for caution in CAUTIONS:
        console.print(f"- {caution}", markup=False)
    for what, path in {"picture:": png, "report: ": html, "model:  ": root / "final"}.items():
        console.print(f"{what} {path}", soft_wrap=True, markup=False)
    return {
        **beside.to_json(),
        "cautions": list(CAUTIONS),
        "output": str(root),
        "report": str(html),
        "picture": str(png),
    }


def quickstart_run(output: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that comes with outgrow, from wherever the command is started."""
    own = [] if output is None else [f"output={output}"]
    with as_file(files("outgrow.run") / "quickstart.yaml") as path:
        return load_run(path, [*own, *overrides])
