"""The picture of a probe: the loss of every operator that was tried, step by step, the chosen one in bold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.report.plot import COLORS, FAINT, STYLE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_probes(rows: Sequence[dict[str, Any]], folder: Path) -> tuple[Path, ...]:
    """Write `probe-STAGE.png` into `folder` for every probe in the rows of metrics.jsonl."""
    return tuple(_draw(row, folder) for row in rows if row["kind"] == "probe")


def _draw(row: dict[str, Any], folder: Path) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    path = folder / f"probe-{row['stage']}.png"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
        _draw_trials(figure.add_subplot(), row)
        save_figure(figure, path)
    return path


def _draw_trials(axes: Axes, row: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, trial in enumerate(row["trials"]):
        losses, end = trial["losses"], trial["loss_at_end"]
        label = f"{trial['width']} + {trial['depth']}: " + ("diverged" if end is None else f"{end:.4f}")
        width, color = (2.4 if place == 0 else 1.2), COLORS[place % len(COLORS)]
        axes.plot(range(1, len(losses) + 1), losses, color=color, linewidth=width, label=label)
        if end is not None:
            axes.plot([len(losses)], [end], marker="o", markersize=6, color=color)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("steps after growth")
    axes.set_ylabel("training loss, nats per target (dots: validation)")
    axes.set_title(f"{row['stage']}: operators tried, best first", loc="left", fontweight="bold")
    axes.grid(color=FAINT, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
