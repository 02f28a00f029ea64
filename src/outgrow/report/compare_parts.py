"""The table of what the schedule saves and what the growth, of arms that change length or batch in mid-run (`comparing/parts.py`)."""

from __future__ import annotations

from outgrow.comparing.parts import NoParts, SavingParts
from outgrow.comparing.result import CostKind, StudyResult
from outgrow.comparing.twins import twin_of
from outgrow.report.compare_cells import mean_cell
from outgrow.text.numbers import amount
from outgrow.text.table import TextTable

COLUMNS = (
    "arm",
    "budget",
    "of",
    "saved in all",
    "= by the schedule",
    "+ by the growth",
    "growth alone, same schedule",
)
NOTE = (
    "Of arms that change length, batch, precision or optimizer in mid-run, beside the baseline's model from scratch with the same schedule "
    "(its twin). Saved in all: 1 - C / C of the baseline, as above. By the schedule: 1 - C of the twin / C of the baseline, what is "
    "saved without any growth. By the growth: the rest, (C of the twin - C) / C of the baseline. Growth alone: 1 - C / C of the twin, "
    "for one who has the schedule already. All at the arm's loss; in brackets the 90 % interval over seeds. Every loss is read at the "
    "study's own length."
)
_KINDS: tuple[tuple[CostKind, str], ...] = (("flops", "FLOPs"), ("seconds", "time"))


def parts_table(result: StudyResult) -> TextTable:
    """One row per budget and cost of every arm that has a twin."""
    parts = {name: result.parts(cost) for cost, name in _KINDS}
    rows = [
        (arm, amount(budget), name, *_cells(parts[name][arm][place], twin_of(result.study, arm) or ""))
        for arm in parts["FLOPs"]
        for place, budget in enumerate(result.study.arm_budgets(arm))
        for _, name in _KINDS
    ]
    return TextTable("What the schedule saves and what the growth", COLUMNS, rows, NOTE)


def _cells(one: SavingParts | NoParts, twin: str) -> tuple[str, ...]:
    if isinstance(one, NoParts):
        whose = "" if one.frontier == "baseline" else f" of {twin}"
        beaten = ", which is better for less" if one.beaten else ""
        return (f"{one.side}{whose}{beaten}", "", "", "")
    return tuple(
        mean_cell(part, scale=100, unit=" %") for part in (one.whole, one.schedule, one.growth, one.alone)
    )
