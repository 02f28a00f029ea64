"""The picture of a run: loss against FLOPs, one colour per stage, growths marked.

The FLOPs axis counts all stages together, the small model included: what a growth saved is read horizontally.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from outgrow.errors import ConfigError, cut, printable
from outgrow.files.atomic import write_bytes_atomic
from outgrow.text.numbers import amount
from outgrow.training.run_log import LogPoint, RunLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    *("#3b6fb6", "#d9772b", "#3a9a67", "#8a5ab5", "#c0485a", "#6d7a88"),
    *("#b59a2d", "#2f9fb0", "#d38ab4", "#7a5a3c"),
)
_LONGEST_TEXT = 300
"""Characters of a title or label: no picture grows with them."""
INK, FAINT = "#22282f", "#8b95a1"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "svg.fonttype": "path",  # the page looks the same where the font is missing
    "svg.hashsalt": "outgrow",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def draw_loss(log: RunLog, folder: Path, title: str) -> tuple[Path, Path]:
    """Write `loss.png` and `loss.svg` into `folder` from the log of a run."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.0), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, log)
        axes.set_title(title, loc="left", fontsize=12.5, fontweight="bold", pad=12)
        paths = folder / "loss.png", folder / "loss.svg"
        for path in paths:
            save_figure(figure, path)
    return paths


def check_picture(path: Path) -> None:
    """Before any work: raises `ConfigError` where a picture could not be written at the end of it."""
    if path.suffix not in (".png", ".svg"):
        raise ConfigError(f"{path} is no name of a picture", expected="a name that ends in .png or .svg")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not path.is_file()):
        raise ConfigError(
            f"the picture cannot be written: {path}", fix="name a file in a folder that is there"
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all: another process may be reading it. The same picture has the same bytes.

    Every text in it is shown as it is, never read as a formula; the labels of ticks are matplotlib's own and come later.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text():
            text.set_text(printable(cut(text.get_text(), _LONGEST_TEXT)))
            text.set_parse_math(False)
    content = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    with _undated():
        figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else None)
    write_bytes_atomic(path, content.getvalue())


@contextmanager
def _undated() -> Iterator[None]:
    """Without SOURCE_DATE_EPOCH: no date is written, and matplotlib stumbles over one that is no number all the same."""
    kept = os.environ.pop("SOURCE_DATE_EPOCH", None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ["SOURCE_DATE_EPOCH"] = kept


def _draw(axes: Axes, log: RunLog) -> None:
    for place, stage in enumerate(log.stages):
        color = COLORS[place % len(COLORS)]
        flops = np.array([point.flops for point in stage.train])
        loss = np.array([point.loss for point in stage.train])
        axes.plot(flops, loss, color=color, linewidth=0.9, alpha=0.28, solid_joinstyle="round")
        if len(loss) >= 8:
            axes.plot(flops, smooth(loss), color=color, linewidth=1.5, alpha=0.75)
        points = [(point.flops, point.loss) for point in stage.validations]
        if stage.growth is not None:
            points = [(stage.growth.flops, stage.growth.loss_after), *points]
        label = f"{stage.name}: {amount(stage.parameters)} parameters"
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=color,
                linewidth=2.0,
                marker="o",
                markersize=4.5,
                label=label,
            )
            axes.plot(
                *points[-1],
                color=color,
                marker="o",
                markersize=8,
                markeredgecolor="white",
                markeredgewidth=1.4,
            )
    axes.plot([], [], color=FAINT, linewidth=2.0, marker="o", markersize=4.5, label="validation")
    axes.plot([], [], color=FAINT, linewidth=1.2, alpha=0.6, label="training")
    _mark_growths(axes, log)
    _mark_end(axes, log)
    _style_axes(axes, log.train)


def _mark_growths(axes: Axes, log: RunLog) -> None:
    for stage in log.stages:
        if stage.growth is not None and stage.growth.flops > 0:
            flops, change = stage.growth.flops, stage.growth.loss_after - stage.growth.loss_before
            axes.axvline(flops, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
            text = "growth\nloss kept" if abs(change) < 5e-4 else f"growth\nloss {change:+.3f}"
            axes.annotate(
                text,
                (flops, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(6, 0),
                textcoords="offset points",
                va="top",
                fontsize=9,
                color=FAINT,
            )


def _mark_end(axes: Axes, log: RunLog) -> None:
    if log.validations:
        end = log.validations[-1]
        axes.annotate(
            f"{end.loss:.3f}",
            (end.flops, end.loss),
            xytext=(0, 11),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )


def _style_axes(axes: Axes, train: Sequence[LogPoint]) -> None:
    from matplotlib.ticker import EngFormatter

    flops = [point.flops for point in train]
    if (
        flops and max(flops) / max(min(flops), 1.0) > 3000
    ):  # over many decades only a logarithm shows the beginning
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    losses = sorted(point.loss for point in train)
    if losses and losses[-1] > losses[0]:  # the first steps of fresh weights would flatten all the rest
        low, start = losses[0], max(losses[int(0.97 * (len(losses) - 1))], losses[0] + 1e-3)
        axes.set_ylim(low - 0.08 * (start - low), start + 0.12 * (start - low))
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel("FLOPs, all stages together")
    axes.set_ylabel("loss (nats per target)")
    quiet_axes(axes)
    axes.legend(frameon=False, loc="upper right", fontsize=9.5)


def quiet_axes(axes: Axes) -> None:
    """Nothing but faint lines to read a height by."""
    axes.grid(axis="y", color="#e7eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9cfd6")
    axes.tick_params(length=0, labelcolor=INK)


def smooth(values: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """A centred mean whose window shrinks at the ends, so that the curve keeps both.

    >>> smooth(np.array([0.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0])).round(1).tolist()[:3]
    [0.0, 2.0, 3.0]
    """
    half = max(1, len(values) // 24)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    reach = np.minimum(half, np.minimum(place, len(values) - 1 - place))
    result: np.ndarray[Any, np.dtype[Any]] = (sums[place + reach + 1] - sums[place - reach]) / (2 * reach + 1)
    return result
