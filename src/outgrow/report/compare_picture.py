"""The picture of a study: decayed loss against FLOPs and against time, one line per arm, a dot per seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from outgrow.comparing.frontier import curve_of
from outgrow.comparing.result import CostKind, StudyResult
from outgrow.report.plot import COLORS, STYLE, quiet_axes, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_frontiers(result: StudyResult, folder: Path) -> tuple[Path, Path]:
    """Write `frontier.png` and `frontier.svg`; the band is from the best to the worst seed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.0, 5.0), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for place, arm in enumerate(result.study.arms):
            _draw_arm(left, result, arm, "flops", COLORS[place % len(COLORS)])
            _draw_arm(right, result, arm, "seconds", COLORS[place % len(COLORS)])
        _style(left, "FLOPs, everything counted", "")
        _style(right, "seconds of training, measured in turns", "s")
        left.set_ylabel("decayed validation loss (nats per target)")
        figure.legend(
            *left.get_legend_handles_labels(), frameon=False, loc="outside right upper", fontsize=9.5
        )
        left.set_title(
            result.study.title or folder.name, loc="left", fontsize=12.5, fontweight="bold", pad=12
        )
        paths = folder / "frontier.png", folder / "frontier.svg"
        for path in paths:
            save_figure(figure, path)
    return paths


def _draw_arm(axes: Axes, result: StudyResult, arm: str, cost: CostKind, color: str) -> None:
    """Seeds as small dots, their mean as large ones, and through it the curve that savings are read off."""
    frontier = result.frontier(arm, cost)
    scratch = result.study.arms[arm].is_scratch
    losses, compute = np.asarray(frontier.losses), frontier.compute
    line: dict[str, Any] = {"color": color, "linewidth": 2.0, "linestyle": (0, (5, 2)) if scratch else "-"}
    dots: dict[str, Any] = {"marker": "o", "markersize": 5}
    places, best = _smooth(compute, losses.min(axis=0))
    axes.fill_between(
        places, best, _smooth(compute, losses.max(axis=0))[1], color=color, alpha=0.12, linewidth=0
    )
    axes.plot(*_smooth(compute, frontier.mean()), **line)
    axes.plot(compute, frontier.mean(), color=color, linestyle="", **dots)
    axes.plot([], [], **line, **dots, label=f"{arm} (nothing grows)" if scratch else arm)
    for row in losses:
        axes.plot(compute, row, color=color, linestyle="", marker="o", markersize=2.5, alpha=0.6)


def _smooth(compute: tuple[float, ...], losses: NDArray[np.float64]) -> tuple[Any, list[float]]:
    curve = curve_of(compute, losses)
    places = np.linspace(curve.places[0], curve.places[-1], 101)
    return np.exp(places), [curve.at(place) for place in places.tolist()]


def _style(axes: Axes, label: str, unit: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    wide = np.ptp(np.log10(axes.get_xlim())) > 1.5
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit, sep=" "))
    axes.set_xlabel(label)
    quiet_axes(axes)
