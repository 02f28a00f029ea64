"""What operators cost where a plan measured it: one row per kind of growth, and what is to be known about the readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.table import Table

    from outgrow.planning.stages.measured import MeasuredOperator


def operator_costs_table(measured: Mapping[str, MeasuredOperator]) -> Table:
    """Loss gap and lost tokens with their spread over seeds, and how the lost tokens changed along the run."""
    from rich.table import Table

    table = Table(
        title="what a growth costs, measured on pilots",
        title_style="dim",
        title_justify="left",
    )
    for place, column in enumerate(
        ("growth", "seeds", "loss gap", "lost tokens", "over the last half", "growth's FLOPs", "measured on")
    ):
        table.add_column(column, justify="right" if 0 < place < 6 else "left", overflow="fold")
    for kind, one in measured.items():
        low, high = one.last_half
        gap, lost = f"{one.loss_gap:+.4f}", _signed(one.lost_tokens)
        if one.loss_gap_spread is not None and one.lost_tokens_spread is not None:
            gap += f" ± {one.loss_gap_spread:.4f}"
            lost += f" ± {amount(one.lost_tokens_spread)}"
        table.add_row(
            kind,
            str(len(one.pilots)),
            gap,
            lost,
            f"{_signed(low)} to {_signed(high)}",
            amount(one.flops),
            "\n".join(f"{pilot.source} against {pilot.own}" for pilot in one.pilots),
        )
    return table


def operator_notes(measured: Mapping[str, MeasuredOperator]) -> Iterator[str]:
    """One line per remark of a pilot."""
    for one in measured.values():
        for pilot in one.pilots:
            yield from (f"{pilot.source}: {note}" for note in pilot.notes)


def _signed(tokens: float) -> str:
    """A number of tokens that may be negative.

    >>> _signed(-516000.0), _signed(2e6)
    ('-516 K', '2.00 M')
    """
    return f"-{amount(-tokens)}" if tokens < 0 else amount(tokens)
