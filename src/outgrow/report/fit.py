"""The fit of a learned operator, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.learning.fit import Fit
from outgrow.report.plot import COLORS, FAINT, STYLE, quiet_axes, save_figure, smooth
from outgrow.run.learn_options import LearnOptions
from outgrow.text.numbers import amount, duration

if TYPE_CHECKING:
    from rich.table import Table


def fit_table(fit: Fit, options: LearnOptions) -> Table:
    """The held-out loss before, at the start and after, and what the fit cost."""
    from rich.table import Table

    table = Table(title=f"fit of {options.method}, {options.steps} steps", title_justify="left")
    for column in ("held-out loss", "nats per target"):
        table.add_column(column)
    table.add_row("small model", f"{fit.loss_small:.4f}")
    table.add_row(f"large model at the start ({options.start})", f"{fit.loss_start:.4f}")
    table.add_row("large model after the fit", f"{fit.loss_end:.4f}")
    table.add_row("cost", f"{amount(fit.flops)}FLOPs, {duration(fit.seconds)}")
    return table


def draw_fit(
    fits: Mapping[str, Fit], path: Path, title: str, *, against: Sequence[float] | None = None
) -> None:
    """Loss against the fit's steps, one line per start, with the small model's loss as a level.

    `against` are the small model's losses on the same batches: differences to them are drawn, without the batches' noise.
    """
    import matplotlib
    import numpy as np
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        level = 0.0 if against is not None else next(iter(fits.values())).loss_small
        for color, (name, fit) in zip(COLORS * 3, fits.items(), strict=False):
            held_out = np.array([fit.loss_start, fit.loss_end])
            losses = np.array(fit.losses)
            if against is not None:
                losses, held_out = losses - np.array(against), held_out - fit.loss_small
            axes.plot(losses, color=color, linewidth=0.9, alpha=0.3)
            axes.plot(smooth(losses), color=color, linewidth=1.8, label=name)
            axes.plot(
                [0, len(losses)],
                held_out,
                color=color,
                linestyle="none",
                marker="o",
                markersize=6,
                markeredgecolor="white",
            )
        axes.axhline(level, color=FAINT, linewidth=1.2, linestyle=(0, (4, 3)), label="small model")
        axes.plot([], [], color=FAINT, marker="o", linestyle="none", label="held out, before and after")
        axes.set_xlabel("steps of the fit")
        axes.set_ylabel("loss (nats per target)" + ("" if against is None else ", less the small model's"))
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
        quiet_axes(axes)
        axes.legend(frameon=False, fontsize=9.5)
        save_figure(figure, path)
