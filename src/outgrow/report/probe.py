"""The picture of a probe: the loss of every operator that was tried, step by step, the chosen one in bold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outgrow.report.plot import COLORS, FAINT, STYLE, save_figure
from outgrow.training.run_log import LoggedStage, RunLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_probes(log: RunLog, folder: Path) -> tuple[Path, ...]:
    """Write `probe-STAGE.png` into `folder` for every stage of a run that tried operators."""
    return tuple(_draw(stage, folder) for stage in log.stages if stage.trials)


def _draw(stage: LoggedStage, folder: Path) -> Path:
    import matplotlib
    from matplotlib.figure import Figure

    path = folder / f"probe-{stage.name}.png"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
        _draw_trials(figure.add_subplot(), stage)
        save_figure(figure, path)
    return path


def _draw_trials(axes: Axes, stage: LoggedStage) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, trial in enumerate(stage.trials):
        losses, end = trial.losses, trial.loss_at_end
        label = f"{trial.width} + {trial.depth}: " + ("diverged" if end is None else f"{end:.4f}")
        width, color = (2.4 if place == 0 else 1.2), COLORS[place % len(COLORS)]
        axes.plot(range(1, len(losses) + 1), losses, color=color, linewidth=width, label=label)
        if end is not None:
            axes.plot([len(losses)], [end], marker="o", markersize=6, color=color)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("steps after growth")
    axes.set_ylabel("training loss, nats per target (dots: validation)")
    axes.set_title(f"{stage.name}: operators tried, best first", loc="left", fontweight="bold")
    axes.grid(color=FAINT, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
