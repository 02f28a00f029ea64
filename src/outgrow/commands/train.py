"""`outgrow train`: a run of a file, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.console import open_console
from outgrow.commands.options import TrainCall
from outgrow.commands.outcome import Outcome
from outgrow.parallel.ranks import Ranks, start_ranks
from outgrow.report.run import RunReport, run_report
from outgrow.run.config import RunConfig
from outgrow.training.dry import DryRun, dry_run
from outgrow.training.folder import load_to_train
from outgrow.training.loop import train_run
from outgrow.training.result import RunResult
from outgrow.training.stage_plans import StagePlan

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Trained(Outcome):
    """A run that has ended; the report is where the process that leads wrote it."""

    result: RunResult
    report: RunReport | None

    def show(self, console: Console) -> None:
        """A row per stage, and where everything is."""
        if self.report is None:
            return
        console.print(self.report.table())
        final = self.result.output / "final"
        for what, path in {
            "report: ": self.report.html,
            "picture:": self.report.png,
            "model:  ": final,
        }.items():
            console.print(f"{what} {path}", soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The stages, and the paths of the report."""
        if self.report is None:
            return self.result.as_dict()
        own = {"report": str(self.report.html), "picture": str(self.report.png)}
        return {**self.result.as_dict(), **own}


@dataclass(frozen=True)
class RunSized(Outcome):
    """What a run would need."""

    needs: DryRun

    def show(self, console: Console) -> None:
        """Sizes, learning rates and warnings."""
        from outgrow.report.rates import rate_line, rate_table
        from outgrow.report.text import dry_table

        console.print(dry_table(self.needs))
        console.print(rate_table(self.needs.rates))
        console.print(rate_line(self.needs.rate_points))
        for warning in self.needs.warnings:
            console.print(f"warning: {warning}")

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return self.needs.as_dict()


def run(call: TrainCall, console: Console) -> Trained | RunSized:
    """Do the run, or with `dry_run` only size it up; progress goes to standard error.

    Started by torchrun, every process calls this. With `nproc` above 1 this process becomes the launcher of so many, and
    ends as they do; a dry run does not launch, it may be of more processes than do it. Raises `OutgrowError`.
    """
    if (call.nproc or 1) > 1 and not call.dry_run:
        _launch(call, as_json=console.quiet)
    ranks = start_ranks()
    with ranks.watched():
        planned = ranks.together(lambda: load_to_train(call.run, call.overrides))
        if not call.dry_run:
            return _train(planned, ranks, quiet=console.quiet)
        return RunSized(dry_run(planned, max(ranks.world, call.nproc or 1)))


def _launch(call: TrainCall, *, as_json: bool) -> None:
    from outgrow.parallel.launch import launch

    assert call.nproc is not None
    words = [word for one in call.overrides for word in ("--set", one)] + ["--json"] * as_json
    raise SystemExit(launch(call.nproc, ["train", str(call.run), *words]))


def _train(planned: RunConfig, ranks: Ranks, *, quiet: bool) -> Trained:
    def show(planned: RunConfig, plans: Sequence[StagePlan], root: Path) -> None:
        notes = open_console(errors=True, quiet=quiet)
        notes.print(f"all keys, with their defaults: {root / 'run.yaml'}", soft_wrap=True)
        _show_rates(planned, plans, root)

    result = train_run(planned, before=show, ranks=ranks)
    return Trained(result, run_report(result.output) if ranks.leads else None)


def _show_rates(planned: RunConfig, plans: Sequence[StagePlan], root: Path) -> None:
    """The learning rate of the whole run, on standard error and as a picture in its folder, before the first step."""
    from outgrow.report.rates import draw_rates, rate_line, rate_table
    from outgrow.training.rates import rate_points, stage_rates

    rates, points = stage_rates(planned, plans), rate_points(planned, plans)
    console = open_console(errors=True)
    console.print(rate_table(rates))
    console.print(rate_line(points))
    draw_rates(points, rates, root / "learning_rate.png", f"{root.name}: learning rate")
