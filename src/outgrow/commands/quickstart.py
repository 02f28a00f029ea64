"""`outgrow quickstart`: a model that grows, beside the same model from scratch, for the same FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.console import open_console
from outgrow.commands.options import QuickstartCall
from outgrow.commands.outcome import Outcome
from outgrow.report.beside import CAUTIONS, Beside, read_beside, write_comparison
from outgrow.report.run import run_report
from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run
from outgrow.training.loop import train_run
from outgrow.training.result import machine
from outgrow.training.scratch import check_twin, scratch_twin

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class BothTrained(Outcome):
    """Both runs, in the folder `root`, and where their comparison is."""

    beside: Beside
    root: Path
    html: Path
    png: Path

    def show(self, console: Console) -> None:
        """A sentence, a table, what to mind, and where everything is."""
        console.print()
        console.print(self.beside.verdict, style="bold", markup=False)
        console.print(self.beside.table().rich())
        for caution in CAUTIONS:
            console.print(f"- {caution}", markup=False)
        for what, path in {
            "picture:": self.png,
            "report: ": self.html,
            "model:  ": self.root / "final",
        }.items():
            console.print(f"{what} {path}", soft_wrap=True, markup=False)

    def to_json(self) -> dict[str, Any]:
        """The numbers, what to mind, and where everything is."""
        own = {"output": str(self.root), "report": str(self.html), "picture": str(self.png)}
        return {**self.beside.to_json(), "cautions": list(CAUTIONS), **own}


def run(call: QuickstartCall, console: Console) -> BothTrained:
    """Do both runs, or what is left of them."""
    staged = quickstart_run(call.output, call.overrides)
    check_twin(staged)
    root, notes = Path(staged.output), open_console(errors=True, quiet=console.quiet)
    notes.print(
        f"1 of 2: a small model trains, grows, trains on (configuration: {root / 'run.yaml'})", soft_wrap=True
    )
    result = train_run(staged, progress=not console.quiet)
    run_report(root)
    twin = scratch_twin(staged, result, str(root / "scratch"))
    notes.print("2 of 2: the large model from scratch, for the same FLOPs")
    train_run(twin, progress=not console.quiet)
    beside = read_beside(root, root / "scratch")
    html, png = write_comparison(
        beside, root, (root / "run.yaml").read_text(encoding="utf-8"), machine()["command"]
    )
    return BothTrained(beside, root, html, png)


def quickstart_run(output: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that comes with outgrow, from wherever the command is started."""
    own = [] if output is None else [f"output={output}"]
    with as_file(files("outgrow.run") / "quickstart.yaml") as path:
        return load_run(path, [*own, *overrides])
