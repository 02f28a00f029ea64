"""The learning rate of a staged run, for people: a table, a line of text, and `learning_rate.png`, before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.report.plot import COLORS, FAINT, STYLE, quiet_axes, save_figure
from outgrow.text.numbers import amount
from outgrow.training.rates import StageRates

if TYPE_CHECKING:
    from rich.table import Table

RatePoints = Sequence[Sequence[tuple[int, float]]]
"""For each stage, (tokens of the run, learning rate)."""


def rate_table(stages: Sequence[StageRates]) -> Table:
    """One row per stage."""
    from rich.table import Table

    table = Table(title="learning rate", title_style="dim", title_justify="left")
    columns = ["stage", "tokens", "on the schedule", "peak", "highest", "last"]
    columns += [""] * any(one.note for one in stages)
    for column in columns:
        table.add_column(column, justify="left" if column in ("stage", "") else "right", overflow="fold")
    for one in stages:
        table.add_row(
            one.name,
            f"{amount(one.tokens[0])} to {amount(one.tokens[1])}",
            f"{amount(one.position[0])} to {amount(one.position[1])} of {amount(one.schedule_tokens)}",
            *(f"{rate:.2e}" for rate in (one.peak, one.highest, one.last)),
            *([one.note] if columns[-1] == "" else []),
        )
    return table


def rate_line(points: RatePoints, width: int = 72) -> str:
    """The curve as one line of text, `|` at each begin of a stage.

    >>> rate_line([[(0, 0.0), (1, 1.0)], [(2, 1.0), (3, 0.5)]], width=8)
    '▁▁██|██▅▅'
    """
    bars = "▁▂▃▄▅▆▇█"
    highest = max(rate for stage in points for _, rate in stage) or 1.0
    end = max(stage[-1][0] for stage in points) - points[0][0][0] + 1
    parts = []
    for stage in points:
        first, last = stage[0][0], stage[-1][0] + 1
        columns = max(1, round(width * (last - first) / end))
        places = [
            min(len(stage) - 1, (2 * column + 1) * len(stage) // (2 * columns)) for column in range(columns)
        ]
        parts.append("".join(bars[round(7 * stage[place][1] / highest)] for place in places))
    return "|".join(parts)


def draw_rates(points: RatePoints, stages: Sequence[StageRates], path: Path, title: str) -> Path:
    """Write the picture: learning rate against tokens of the run, one colour per stage."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        highest = max(rate for stage in points for _, rate in stage)
        for place, (stage, one) in enumerate(zip(points, stages, strict=True)):
            color = COLORS[place % len(COLORS)]
            tokens, rates = zip(*stage, strict=True)
            label = one.name + (f" ({one.note})" if one.note else "")
            axes.plot(tokens, rates, color=color, linewidth=2.0, label=label)
            axes.fill_between(tokens, rates, color=color, alpha=0.10, linewidth=0)
            if place:
                axes.axvline(one.tokens[0], color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
                axes.annotate(
                    f"position {amount(one.position[0])}",
                    (one.tokens[0], 1.16 * highest),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="top",
                    fontsize=9,
                    color=FAINT,
                )
        axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=12)
        axes.set_xlim(0, stages[-1].tokens[1])
        axes.set_ylim(0, 1.2 * highest)
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        axes.set_xlabel("tokens, all stages together")
        axes.set_ylabel("learning rate")
        quiet_axes(axes)
        figure.legend(frameon=False, loc="outside lower left", fontsize=9.5)
        save_figure(figure, path)
    return path
