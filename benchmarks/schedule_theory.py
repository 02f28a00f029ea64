"""The theory of Staged Training (arXiv 2203.06211) again: optimal schedules and practical points, beside the published values.

    PYTHONPATH=src python benchmarks/schedule_theory.py [--picture schedule_theory.png]

Kaplan's law with the paper's constants, target loss 2.69, saving against the best run of one stage. With a fixed batch it is the
critical batch of the target; with a varying one each stage has that of its own end. The published column is what the released
solver and notebook give when they are run (the paper's own text rounds some of them).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from outgrow.planning.laws import KAPLAN_BATCH, STAGED_TRAINING, Array
from outgrow.planning.stages import LOSS_PRESERVING, Problem, Size, StagePath, best_for_loss, practical_points
from outgrow.planning.stages.problem import any_larger, by_ratio
from outgrow.planning.stages.rules import SHEN_RULES

TARGET = 2.69
LAW, BATCH = STAGED_TRAINING, KAPLAN_BATCH


def problem(count: int, below: float, *, ratio: float | None = None, varying: bool = False) -> Problem:
    """`count` sizes in even ratios from the best single size's 1 / below to its double."""
    best = LAW.cheapest(TARGET, BATCH).parameters
    if ratio is None:
        numbers = best * np.geomspace(1 / below, 2, count)
    else:  # even ratios of which `ratio` is a power
        numbers = best * ratio ** (np.arange(-count + 9, 9) / 8)
    batch = float(BATCH.tokens(TARGET))
    sizes = tuple(
        Size(f"{n:.4g}", n, 6 * n, LAW.step_curve(n) if varying else LAW.curve(n, batch))
        for n in numbers.tolist()
    )
    table = any_larger(len(sizes)) if ratio is None else by_ratio(sizes, ratio)
    return Problem(
        sizes, (LOSS_PRESERVING,), table, tuple(range(len(sizes))), BATCH.tokens if varying else None
    )


@dataclass(frozen=True)
class Row:
    """One published number and ours, in per cent of compute."""

    case: str
    published: float
    ours: float


def free_paths(stages: int, *, varying: bool = False, count: int = 200) -> tuple[StagePath, ...]:
    """Schedules of free sizes."""
    return best_for_loss(problem(count, 1e4 if stages > 3 else 300, varying=varying), TARGET, stages)


def schedule_rows(fixed: int = 10, varying: int = 10, count: int = 200) -> list[Row]:
    """The table of optimal schedules: free sizes in up to so many stages for each kind of batch, and the fixed ratios."""
    rows = []
    for batch, stages, published in (
        ("fixed", fixed, {2: 17.1, 3: 20.8, 5: 22.8, 10: 23.7}),
        ("varying", varying, {2: 25.5, 3: 32.1, 10: 39.9}),
    ):
        paths = free_paths(stages, varying=batch == "varying", count=count)
        rows += [
            Row(f"{k} stages of free sizes, {batch} batch", value, 100 * paths[k - 1].saving(paths[0]))
            for k, value in published.items()
            if k <= stages
        ]
    two, four = (best_for_loss(problem(64, 0, ratio=r), TARGET, 3) for r in (2.0, 4.0))
    return [
        *rows,
        Row("2 stages, x2", 10.7, 100 * two[1].saving(two[0])),
        Row("2 stages, x4", 15.8, 100 * four[1].saving(four[0])),
        Row("3 stages, x2 and x2", 16.7, 100 * two[2].saving(two[0])),
    ]


def moving_curve(parameters: float, steps: Array) -> tuple[Array, Array]:
    """(FLOPs, loss) of one size whose batch is always the critical one: 6 N S B_crit(loss), as in the released notebook."""
    loss = LAW.step_curve(parameters).loss(steps)
    return 6 * parameters * steps * BATCH.tokens(loss), loss


def practical_rows(parameters: float = 1e8) -> list[tuple[str, float, float]]:
    """(what, published, ours) of the three practical points; only ratios of sizes matter."""
    steps = np.geomspace(1e3, 1e7, 20_000)
    rows = []
    for kind, ratio, saving in (("width", 2.718, 7.8), ("depth", 1.617, 6.5)):
        rule = SHEN_RULES[kind]
        small = moving_curve(parameters, steps)
        large = moving_curve(parameters * rule.parameter_factor, steps)
        points = practical_points(small, large, slope=rule.slope)
        tokens_small = LAW.step_curve(parameters).tokens(points.growth_loss)
        tokens_large = LAW.step_curve(parameters * rule.parameter_factor).tokens(points.growth_loss)
        rows.append(
            (f"{kind}: step at PRE-GROWTH / at GROWTH-TARGET", ratio, float(tokens_small / tokens_large))
        )
        rows.append((f"{kind}: saving (%)", saving, 100 * points.saving))
        floor = float(LAW.floor(parameters * rule.parameter_factor))
        if kind == "width":
            rows.append(("loss at OPTIMALITY / floor", 1.10, points.final_loss / floor))
    return rows


def draw(path: Path, rows: list[Row]) -> None:
    """Left: the staged path under the curves of its sizes. Right: saving against stages, published values as rings."""
    import matplotlib
    from matplotlib.figure import Figure

    from outgrow.report.plot import COLORS, FAINT, INK, STYLE, quiet_axes

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.8), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1.0))
        chosen = problem(200, 300)
        one, _, three = best_for_loss(chosen, TARGET, 3)
        flops = np.geomspace(one.total_flops / 130, 2 * one.total_flops, 400)
        for place in (*three.sizes, one.sizes[0]):
            size = chosen.sizes[place]
            left.plot(flops, size.curve.loss(flops / size.flops_per_token), color=FAINT, linewidth=0.9)
        size = chosen.sizes[one.sizes[0]]
        until = flops[flops <= one.total_flops]
        left.plot(
            until,
            size.curve.loss(until / size.flops_per_token),
            color=INK,
            linestyle=(0, (5, 2)),
            label=f"one stage: {size.parameters / 1e6:.0f} M parameters",
        )
        spent = 0.0
        for k, place in enumerate(three.sizes):
            size, end = chosen.sizes[place], spent + three.flops[k]
            start = 0.0 if k == 0 else float(size.curve.tokens(three.losses[k - 1]))
            part = np.linspace(max(spent, flops[0]), end, 300)
            left.plot(
                part,
                size.curve.loss(start + (part - spent) / size.flops_per_token),
                color=COLORS[k],
                linewidth=2.6,
                label=f"stage {k + 1}: {size.parameters / 1e6:.0f} M",
            )
            left.plot(end, three.losses[k], "o", color=COLORS[k], markersize=7, markeredgecolor="white")
            spent = end
        left.set(xscale="log", xlabel="FLOPs, all stages together", ylabel="loss (nats per token)")
        left.set(xlim=(flops[0], flops[-1]), ylim=(2.5, 4.2))
        left.set_title(
            f"three free stages: {three.saving(one):.1%} less compute",
            loc="left",
            fontweight="bold",
            fontsize=11.5,
        )
        for color, batch in ((COLORS[0], "fixed"), (COLORS[1], "varying")):
            own = [row for row in rows if row.case.endswith(f"{batch} batch")]
            stages = [int(row.case.split()[0]) for row in own]
            right.plot(
                stages, [row.ours for row in own], ".-", color=color, label=f"{batch} batch", linewidth=2
            )
            right.plot(
                stages, [row.published for row in own], "o", markersize=11, color=color, fillstyle="none"
            )
        right.plot([], [], "o", markersize=9, color=FAINT, fillstyle="none", label="published")
        right.set(xlabel="stages", ylabel="saving (%)", ylim=(0, 45), xticks=[2, 3, 5, 10])
        right.set_title("more stages", loc="left", fontweight="bold", fontsize=11.5)
        for axes in (left, right):
            quiet_axes(axes)
        left.legend(frameon=False, loc="upper right", fontsize=9.5)
        right.legend(frameon=False, loc="lower right", fontsize=9.5)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    began = time.process_time()
    paths = best_for_loss(problem(200, 300), TARGET, 4)
    print(f"4 stages over 200 sizes: {time.process_time() - began:.2f} s of one core")
    two = paths[1]
    chosen = problem(200, 300)
    print(
        f"2 free stages: {chosen.sizes[two.sizes[0]].parameters / 1e6:.1f} M -> "
        f"{chosen.sizes[two.sizes[1]].parameters / 1e6:.1f} M parameters, ratio "
        f"{chosen.sizes[two.sizes[1]].parameters / chosen.sizes[two.sizes[0]].parameters:.2f} "
        "(published: 118.5 M -> 964.5 M, 8.1)"
    )
    rows = schedule_rows()
    print(f"\n{'saving in % of compute':44}{'published':>10}{'ours':>8}{'difference':>12}")
    for row in rows:
        print(f"{row.case:44}{row.published:10.1f}{row.ours:8.1f}{row.ours - row.published:12.2f}")
    print(f"\n{'practical points':44}{'published':>10}{'ours':>8}")
    for what, published, ours in practical_rows():
        print(f"{what:44}{published:10.3f}{ours:8.3f}")
    if options.picture:
        draw(options.picture, rows)
        print(f"\npicture: {options.picture}")


if __name__ == "__main__":
    main()
