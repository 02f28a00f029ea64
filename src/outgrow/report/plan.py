"""A plan for people: tables of the law and the schedules, and the picture of loss against FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from outgrow.planning.plan_law import SizeLaw
from outgrow.planning.stages import loss_along
from outgrow.planning.summary import law_summary
from outgrow.planning.worked import WorkedPlan
from outgrow.report.plot import COLORS, FAINT, INK, STYLE, quiet_axes, save_figure
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

    from outgrow.planning.laws import Array

_MOST_CURVES = 9


def law_table(law: SizeLaw) -> Table:
    """Constants of a fitted law with their intervals, and how well it fits."""
    from rich.table import Table

    table = Table(title=law.words.split(": ")[0], title_style="dim", title_justify="left")
    for place, column in enumerate(("constant", "value", "90 % interval")):
        table.add_column(column, justify="left" if place == 0 else "right")
    for fit in law_summary(law)["fits"]:
        for name, one in fit["constants"].items():
            table.add_row(name, f"{one['value']:.4g}", f"{one['low']:.4g} to {one['high']:.4g}")
        quality = fit["quality"]
        table.add_row("scatter of the loss", f"{quality['scatter']:.2%}", f"R² {quality['r_squared']:.4f}")
        table.add_row("points, curves", f"{quality['points']}, {quality['curves']}", "", end_section=True)
    return table


def plan_table(worked: WorkedPlan) -> Table:
    """Every schedule, stage by stage; the one to take is marked."""
    from rich.table import Table

    table = Table(
        title="compute of all stages together; the marked schedule is the one to take",
        title_style="dim",
        title_justify="left",
    )
    batches = worked.problem.batch_tokens is not None
    shared = ("FLOPs", "end loss", "saving", "90 % interval")
    for place, column in enumerate(
        ("", "stage", "parameters", "tokens", "tokens/param", *(("batch",) if batches else ()), *shared)
    ):
        table.add_column(column, justify="left" if place < 2 else "right")
    for place, path in enumerate(worked.paths):
        taken = place == worked.chosen
        interval = worked.savings[place]
        for k, size in enumerate(path.sizes):
            one, last = worked.candidates[size], k == len(path.sizes) - 1
            seen = sum(path.tokens[: k + 1])
            table.add_row(
                "▶" if taken and k == 0 else "",
                one.name,
                amount(one.parameters),
                amount(path.tokens[k]),
                f"{seen / one.parameters:.1f}",
                *((amount(worked.batches(path)[k]),) if batches else ()),
                amount(path.flops[k]),
                f"{path.losses[k]:.4f}",
                f"{worked.saving(place):.1%}" if last else "",
                f"{interval.low:.1%} to {interval.high:.1%}" if last and interval is not None else "",
                end_section=last,
                style="bold" if taken else None,
            )
    return table


def rules_table(worked: WorkedPlan) -> Table:
    """The published rules beside the optimum."""
    from rich.table import Table

    table = Table(title="published rules on the same curves", title_style="dim", title_justify="left")
    for place, column in enumerate(("rule", "from", "grow after", "saving")):
        table.add_column(column, justify="left" if place < 2 else "right", overflow="fold")
    for row in worked.rules:
        tokens = "" if row.switch_tokens is None else f"{amount(row.switch_tokens)} tokens"
        table.add_row(
            row.rule,
            row.small,
            tokens,
            f"{row.saving:.1%}" if row.saving is not None else f"- ({row.why_not})",
        )
    return table


def draw_plan(worked: WorkedPlan, path: Path) -> None:
    """Left: every size's curve, the staged path along them, its switches and its band. Right: switching early or late."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        staged = len(worked.path.sizes) > 1
        figure = Figure(figsize=(11.0, 5.2) if staged else (8.0, 5.2), dpi=150, layout="constrained")
        if staged:
            left, right = figure.subplots(1, 2, width_ratios=(2.1, 1.0))
            _draw_sensitivity(right, worked)
        else:
            left = figure.subplots()
        _draw_paths(left, worked)
        save_figure(figure, path)


def _draw_paths(axes: Axes, worked: WorkedPlan) -> None:
    path, baseline = worked.path, worked.baseline
    low = path.flops[0] / 12
    flops = np.geomspace(low, 2.5 * max(path.total_flops, baseline.total_flops), 500)
    for place in _shown(worked):
        axes.plot(flops, _curve(worked, place, flops), color=FAINT, linewidth=0.9, alpha=0.7, zorder=1)
    _draw_points(axes, worked, flops)
    _band(axes, worked, baseline.sizes, (), flops[flops <= baseline.total_flops], INK)
    _band(axes, worked, path.sizes, path.tokens[:-1], flops[flops <= path.total_flops], COLORS[0])
    _draw_baseline(axes, worked, low)
    _draw_stages(axes, worked, low)
    axes.annotate(
        "",
        (path.total_flops, path.losses[-1]),
        xytext=(baseline.total_flops, path.losses[-1]),
        arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 5},
    )
    axes.set_title(_title(worked), loc="left", fontsize=11.5, fontweight="bold", pad=10)
    axes.set_xscale("log")
    axes.set_xlim(low, flops[-1])
    height = _set_heights(axes, worked, low, float(flops[-1]))
    _name_curves(axes, worked, float(flops[-1]), 0.045 * height)
    axes.set_xlabel("FLOPs, all stages together")
    axes.set_ylabel("loss (nats per token)")
    quiet_axes(axes)
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def _curve(worked: WorkedPlan, place: int, flops: Array) -> Array:
    """Loss of one size, trained from scratch with so many FLOPs."""
    return worked.problem.end_loss(place, 0, flops / worked.problem.sizes[place].flops_per_token)


def _draw_baseline(axes: Axes, worked: WorkedPlan, low: float) -> None:
    (place,) = worked.baseline.sizes
    until = np.geomspace(low, worked.baseline.total_flops, 300)
    axes.plot(
        until,
        _curve(worked, place, until),
        color=INK,
        linewidth=1.6,
        linestyle=(0, (5, 2)),
        label=f"one stage: {worked.problem.sizes[place].name}, {amount(worked.baseline.total_flops)} FLOPs",
        zorder=3,
    )


def _draw_stages(axes: Axes, worked: WorkedPlan, low: float) -> None:
    problem, path = worked.problem, worked.path
    spent = 0.0
    for k, place in enumerate(path.sizes):
        color, end = COLORS[k % len(COLORS)], spent + path.flops[k]
        part = np.geomspace(max(spent, low), end, 200)
        part = np.concatenate([part[part > spent], [end]])
        part[-1] = end * (1 - 1e-12)
        loss = loss_along(problem, path.sizes, path.tokens[:-1], part)
        label = f"stage {k + 1}: {problem.sizes[place].name}, {amount(path.tokens[k])} tokens"
        axes.plot(part, loss, color=color, linewidth=2.6, label=label, zorder=4, solid_capstyle="round")
        axes.plot(end, path.losses[k], "o", color=color, markersize=7, markeredgecolor="white", zorder=5)
        spent = end


def _title(worked: WorkedPlan) -> str:
    path, interval = worked.path, worked.savings[worked.chosen]
    if len(path.sizes) == 1:
        return f"loss {path.losses[-1]:.3f}: one stage is best"
    words = f"{worked.saving(worked.chosen):.1%} less compute"
    if interval is not None:
        words += f" (90 %: {interval.low:.1%} to {interval.high:.1%})"
    return f"loss {path.losses[-1]:.3f} in {len(path.sizes)} stages: {words}"


def _set_heights(axes: Axes, worked: WorkedPlan, low: float, flops: float) -> float:
    """Losses shown: from the best size's end up to the first stage's begin, if that is not too far; returns their range."""
    path = worked.path
    top = float(_curve(worked, path.sizes[0], np.array(low)))
    if len(path.sizes) > 1:
        top = min(top, path.losses[-1] + 3 * (path.losses[0] - path.losses[-1]))
    end = min(float(_curve(worked, place, np.array(flops))) for place in range(len(worked.problem.sizes)))
    axes.set_ylim(end - 0.06 * (top - end), top)
    return top - end


def _name_curves(axes: Axes, worked: WorkedPlan, flops: float, gap: float) -> None:
    """The sizes' names at the ends of their curves, pushed apart where curves end close together."""
    ends = sorted(
        (float(_curve(worked, place, np.array(flops))), worked.candidates[place].name)
        for place in _shown(worked)
    )
    height = -np.inf
    for loss, name in ends:
        height = max(loss, height + gap)
        if height > axes.get_ylim()[1]:
            return
        axes.annotate(
            name,
            (flops, height),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            color=FAINT,
            va="center",
            annotation_clip=False,
        )


def _shown(worked: WorkedPlan) -> Sequence[int]:
    """The sizes whose curves are drawn: all of a few, else those of the schedule and some between."""
    count = len(worked.candidates)
    if count <= _MOST_CURVES:
        return range(count)
    used = {*worked.path.sizes, *worked.baseline.sizes}
    first, last = min(used), max(used)
    return sorted({*used, *np.linspace(first, last, _MOST_CURVES - 2).astype(int).tolist()})


def _draw_points(axes: Axes, worked: WorkedPlan, flops: Array) -> None:
    """The measured losses behind a fitted law, at what their size costs."""
    for place, curve in enumerate(worked.law.curves):
        rate = curve.flops_per_token or 6 * curve.parameters
        label = "measured" if place == 0 else None
        axes.plot(
            rate * curve.tokens, curve.loss, ".", color="#c9a227", markersize=3.5, label=label, zorder=2
        )


def _band(
    axes: Axes, worked: WorkedPlan, sizes: Sequence[int], early: Sequence[float], flops: Array, color: str
) -> None:
    """The middle 90 % of the law's draws, along a schedule."""
    from dataclasses import replace

    if not worked.law.draws or len(flops) < 2:
        return
    losses = []
    for draw in worked.law.draws[:100]:
        other = replace(
            worked.problem,
            sizes=tuple(replace(size, curve=draw(size.parameters)) for size in worked.problem.sizes),
        )
        losses.append(loss_along(other, sizes, early, flops))
    low, high = np.quantile(np.array(losses), (0.05, 0.95), axis=0)
    axes.fill_between(flops, low, high, color=color, alpha=0.16, linewidth=0, zorder=2)


def _draw_sensitivity(axes: Axes, worked: WorkedPlan) -> None:
    for k, (factors, costs) in enumerate(worked.sensitivity()):
        name = worked.candidates[worked.path.sizes[k]].name
        axes.plot(
            factors,
            100 * (costs - 1),
            color=COLORS[k % len(COLORS)],
            linewidth=2.0,
            label=f"growing {name}",
        )
    scratch = 100 * (worked.baseline.total_flops / worked.path.total_flops - 1)
    axes.axhline(scratch, color=INK, linewidth=1.2, linestyle=(0, (5, 2)))
    axes.annotate(
        "one stage",
        (0.0, scratch),
        xycoords=("axes fraction", "data"),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_ylim(-0.06 * max(scratch, 1.0), 1.6 * max(scratch, 1.0))
    axes.set_xlabel("tokens before the switch / planned")
    axes.set_ylabel("extra compute (%)")
    axes.set_title("switching early or late", loc="left", fontsize=11.5, fontweight="bold", pad=10)
    quiet_axes(axes)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
