"""The tables of a run: its stages, and what it would need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from outgrow.text.numbers import amount, duration
from outgrow.training.result import COLUMNS, stage_rows

if TYPE_CHECKING:
    from rich.table import Table

    from outgrow.training.dry import DryRun
    from outgrow.training.result import StageResult


def stage_table(stages: Sequence[StageResult]) -> Table:
    """The stages of a run as a rich table; losses are validation losses in nats per target."""
    from rich.table import Table

    table = Table(title="validation loss in nats per target", title_style="dim", title_justify="left")
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    rows = stage_rows(stages)
    for row in rows:
        whole = row[0] == "whole" and row is rows[-1]
        table.add_row(*row, style="bold" if whole else None, end_section=len(rows) > 1 and row is rows[-2])
    return table


def dry_table(dry: DryRun) -> Table:
    """What a run would need."""
    from rich.table import Table

    ranks = f"{dry.ranks} ranks, memory of one: " if dry.ranks > 1 else ""
    table = Table(title=f"{ranks}{dry.device}; {dry.corpus}", title_style="dim", title_justify="left")
    for place, column in enumerate(
        ("stage", "parameters", "tokens", "steps", "FLOPs", "memory", "checkpoint", "time")
    ):
        table.add_column(column, justify="left" if place == 0 else "right")
    for stage in dry.stages:
        share = f", {amount(stage.rank_bytes)}B a rank"
        table.add_row(
            stage.name,
            f"{stage.parameters:,}",
            amount(stage.tokens),
            f"{stage.steps:,}",
            amount(stage.flops),
            amount(stage.memory_bytes) + "B",
            amount(stage.checkpoint_bytes) + "B" + share * (dry.ranks > 1),
            duration(stage.seconds),
            end_section=stage is dry.stages[-1],
        )
    table.add_row(
        "whole",
        "",
        "",
        "",
        amount(dry.flops),
        amount(dry.memory_bytes) + "B",
        amount(dry.disk_bytes) + "B",
        duration(dry.seconds),
    )
    return table
