"""The table of what grown arms save against every other model from scratch in the study, each with its interval."""

from __future__ import annotations

from outgrow.comparing.result import StudyResult
from outgrow.report.compare_cells import saved_cell
from outgrow.text.numbers import amount
from outgrow.text.table import TextTable

COLUMNS = ("arm", "budget", "beside", "FLOPs saved", "time saved")
NOTE = (
    "Of arms that grow, beside each arm from scratch that is not the baseline: 1 - C / C of that arm at equal decayed loss, over the seeds "
    "that both have; in brackets the 90 % interval over seeds. 'Better than every budget': that arm was trained to no such loss, and what it "
    "would cost is not known."
)


def sizes_table(result: StudyResult) -> TextTable:
    """One row per budget of a grown arm and arm from scratch."""
    timed = result.beside("seconds")
    rows = [
        (arm, amount(budget), other, saved_cell(flops), saved_cell(seconds))
        for (arm, other), found in result.beside().items()
        for budget, flops, seconds in zip(
            result.study.arm_budgets(arm), found, timed[arm, other], strict=True
        )
    ]
    return TextTable("Against every other model from scratch", COLUMNS, rows, NOTE)
