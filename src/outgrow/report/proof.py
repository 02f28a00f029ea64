"""A proof as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.proof.verdict import Report
from outgrow.report.plot import COLORS, FAINT, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_proof(report: Report, path: Path) -> Path:
    """Two panels: gradient-law error of every tensor, worst first; and both losses over the steps after the growth."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_law(left, report)
        _draw_losses(right, report)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(_title(report), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        save_figure(figure, path)
    return path


def _draw_law(axes: Axes, report: Report) -> None:
    errors = [max(one.error, 1e-17) for one in report.gradient]
    axes.bar(range(len(errors)), errors, width=1.0, color=COLORS[0])
    axes.set_yscale("log")
    axes.set_ylim(1e-17, max(1.0, 3 * max(errors, default=1.0)))
    exact = report.gradient_tolerance
    if exact is not None:
        axes.axhline(exact, color=FAINT, linewidth=0.8, linestyle="--")
        place = (len(errors) - 1, exact)
        axes.annotate("exact below", place, ha="right", va="bottom", fontsize=9, color=FAINT)
    axes.set_title("gradient against its transport, per tensor, worst first", loc="left", fontsize=10.5)
    axes.set_xlabel("tensor")
    axes.set_ylabel("relative error")


def _draw_losses(axes: Axes, report: Report) -> None:
    steps = range(len(report.losses_small))
    axes.plot(steps, report.losses_small, color=COLORS[1], marker="o", markersize=3, label="small")
    axes.plot(steps, report.losses_large, color=COLORS[0], marker="o", markersize=3, label="large")
    axes.set_title("loss of both models on the same batches", loc="left", fontsize=10.5)
    axes.set_xlabel("steps after the growth")
    axes.legend(frameon=False)


def _title(report: Report) -> str:
    kept = "function kept" if report.function_kept else "function changed"
    title = f"{report.model_type}: {kept} (loss gap {report.function_error:.1e})"
    if report.escape is None:
        return title
    return f"{title}, escape {report.escape:.2%} after {report.steps} steps"
