"""The report of a run folder: `loss.png`, `loss.svg`, `report.html`, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.errors import ConfigError
from outgrow.files.atomic import write_text_atomic
from outgrow.files.reading import expanded
from outgrow.report.html import html_page
from outgrow.report.plot import draw_loss
from outgrow.report.probe import draw_probes
from outgrow.report.text import stage_table
from outgrow.text.numbers import amount, duration
from outgrow.text.table import TextTable
from outgrow.training.folder import RunFolder
from outgrow.training.result import COLUMNS, StageResult, read_log, reading_note, stage_results, stage_rows

if TYPE_CHECKING:
    from rich.table import Table

_NOTE = "Losses are validation losses in nats per target, on the same held-out data every time."


@dataclass(frozen=True)
class RunReport:
    """Where the report is, and its rows."""

    html: Path
    png: Path
    svg: Path
    stages: tuple[StageResult, ...]

    def table(self) -> Table:
        """The stages as a rich table."""
        return stage_table(self.stages)


def run_report(output: str | Path) -> RunReport:
    """Write the report of a run, finished or not, from its metrics.jsonl.

    >>> run_report("runs/quickstart").html  # doctest: +SKIP
    PosixPath('runs/quickstart/report.html')
    """
    root = expanded(output)
    log = read_log(RunFolder(root))
    stages = stage_results(log)
    if not stages:
        raise ConfigError(f"no run to report on: {root}", expected="a folder with metrics.jsonl")
    title = f"outgrow: {root.name}"
    sizes = " → ".join(amount(stage.parameters) for stage in stages)
    draw_probes(log, root)
    png, svg = draw_loss(log, root, f"{root.name}: {sizes} parameters")
    lead = (
        f"{sizes} parameters, {amount(sum(s.tokens for s in stages))} tokens, {amount(sum(s.flops for s in stages))} FLOPs, "
        f"{duration(sum(s.seconds for s in stages))}"
    )
    text = html_page(
        title=title,
        verdict=run_verdict(stages),
        lead=lead,
        picture_svg=svg.read_bytes(),
        tables=[TextTable("Stages", COLUMNS, stage_rows(stages), _NOTE + reading_note(stages))],
        configuration=(root / "run.yaml").read_text(encoding="utf-8"),
        facts=log.machine.facts,
        command=log.machine.command,
    )
    write_text_atomic(root / "report.html", text)
    return RunReport(root / "report.html", png, svg, stages)


def run_verdict(stages: Sequence[StageResult]) -> str:
    """What a run came to, in a sentence.

    >>> small = StageResult("small", 800, 10, 1e9, None, None, 4.7, 1.0)
    >>> run_verdict([small, StageResult("large", 2800, 5, 1e9, 4.7, 4.8, 4.3, 1.0)])
    'Grown from 800 to 2.80 K parameters: the loss moved from 4.7000 to 4.8000 at the growth, and ends at 4.3000.'
    """
    first, last = stages[0], stages[-1]
    if last.final_loss is None:
        return "The run has no validation loss of its last stage yet."
    for grown in reversed(stages):
        before, after = grown.loss_before_growth, grown.loss_after_growth
        if before is not None and after is not None:
            sizes = f"{amount(first.parameters)} to {amount(last.parameters)}"
            moved = f"the loss moved from {before:.4f} to {after:.4f} at the growth"
            return f"Grown from {sizes} parameters: {moved}, and ends at {last.final_loss:.4f}."
    return f"{amount(last.parameters)} parameters: the validation loss ends at {last.final_loss:.4f}."
