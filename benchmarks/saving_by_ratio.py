"""One picture of all stacked causal models: the saving against the depth ratio, by tokens per parameter and size.

    python benchmarks/saving_by_ratio.py                                        draws docs/_static/savings.json
    python benchmarks/saving_by_ratio.py lm-thin=runs/studies/lm-thin           first takes in a study, under the name of its page

A row is one arm at one budget: the layers of its stages, the baseline's tokens per parameter where it has the arm's loss, the saving
and its 90 % interval over seeds, in per cent. A dot is filled where the arm saves against the best model of any size, too. Behind the points stands Chinchilla's law, replicated (arXiv 2404.10102): what a small
model of 1 / ratio of the parameters saves where the growth costs nothing and comes at the best moment.

The rows of lm-depth, lm-deep, lm-deep-96 and lm-deep-muon are copied from their pages in docs/results, which name the commands; all
others were taken in from a `study.json`. Of other sizes lm-depth and lm-deep tried two layers alone. lm-thin-rest and lm-thin-points stand
on the page of lm-thin, whose 12 layers from scratch are better than each of their rows; its two hops stand there once.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from outgrow.planning.plan_file import parse_plan
from outgrow.planning.worked import work_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATIC = Path(__file__).parents[1] / "docs" / "_static"
RATIOS = (2, 4, 8, 16)
LAW_TOKENS = (10, 20, 40)
LAW_PARAMETERS = 200_000
"""Nearly as good as any other: 7.0 % here is 4.6 % at a billion (ratio 4, 20 tokens per parameter)."""


@dataclass(frozen=True)
class Row:
    """One arm at one budget; savings in per cent, with the bounds of the 90 % interval."""

    page: str
    layers: list[int]
    """Of each stage."""
    optimizer: str
    parameters: int
    """Of the large model, without embeddings."""
    seeds: int
    read_at: float
    """Tokens per parameter."""
    saving: float
    low: float
    high: float
    against_any_size: bool | None
    """Whether it saves against the best model from scratch of any size, too; None where no other size was trained to this loss."""

    @property
    def ratio(self) -> float:
        """Of the last depth to the first."""
        return self.layers[-1] / self.layers[0]


def law_saving(ratio: int, tokens_per_parameter: float) -> float:
    """By Chinchilla's law, in per cent: from 1 / ratio of the parameters in one free growth at the best moment."""
    plan = work_out(
        parse_plan(
            {
                "target": {"size": "large", "tokens": round(tokens_per_parameter * LAW_PARAMETERS)},
                "candidates": [
                    {"name": "small", "parameters": round(LAW_PARAMETERS / ratio)},
                    {"name": "large", "parameters": LAW_PARAMETERS},
                ],
                "law": {"kind": "chinchilla", "version": "replicated"},
                "stages": 2,
                "worth": 0.0,
            }
        )
    )
    return 100 * max(plan.saving(place) for place in range(len(plan.paths)))


def rows_of(page: str, study: dict[str, Any]) -> list[Row]:
    """Every stacked arm of a `study.json` whose saving could be read, with its interval."""
    config, found = study["study"], []
    lowest = _lowest_of_other_sizes(study)
    for arm, savings in study["savings"]["flops"].items():
        depths = _depths(config["arms"][arm])
        if len(depths) < 2 or _has_schedule(config["arms"][arm]):
            continue
        ends = {point["budget"]: point for point in study["points"] if point["arm"] == arm}
        budgets = sorted(ends)
        columns = savings, study["read_at_tokens_per_parameter"][arm], study["any_size_flops"][arm]
        for budget, saving, read_at, any_size in zip(budgets, *columns, strict=True):
            if saving["saving"] is None or saving["low"] is None:
                continue
            low, middle, high = (round(100 * saving[key], 1) for key in ("low", "saving", "high"))
            optimizer = {"adamw": "AdamW", "muon": "Muon"}[config["common"]["optimizer"].get("name", "adamw")]
            parameters, seeds = ends[budget]["parameters"], len(config["seeds"])
            loss = fmean(point["loss"] for point in study["points"] if _is_end(point, arm, budget))
            found.append(
                Row(
                    page=page,
                    layers=depths,
                    optimizer=optimizer,
                    parameters=parameters,
                    seeds=seeds,
                    read_at=round(read_at, 1),
                    saving=middle,
                    low=low,
                    high=high,
                    against_any_size=saving["compute"] < any_size if lowest <= loss else None,
                )
            )
    return found


def _lowest_of_other_sizes(study: dict[str, Any]) -> float:
    """The lowest mean loss of a model from scratch of another depth than the baseline's: only what reaches a loss tells at it."""
    arms, baseline = study["study"]["arms"], study["study"]["baseline"]
    others = [
        arm for arm in arms if len(_depths(arms[arm])) == 1 and _depths(arms[arm]) != _depths(arms[baseline])
    ]
    ends = {(point["arm"], point["budget"]) for point in study["points"] if point["arm"] in others}
    means = [fmean(point["loss"] for point in study["points"] if _is_end(point, *end)) for end in ends]
    return min(means, default=inf)


def _is_end(point: dict[str, Any], arm: str, budget: int) -> bool:
    return bool(point["arm"] == arm and point["budget"] == budget)


def _has_schedule(arm: dict[str, Any]) -> bool:
    """Whether a stage has a length or a batch of its own: what that saves is not the depth's."""
    return any(stage.get("data") or stage.get("batch") for stage in arm.get("stages") or [])


def _depths(arm: dict[str, Any]) -> list[int]:
    """Layers of an arm's stages; one number where it never stacks."""
    depths = [arm["model"]["num_hidden_layers"]] if arm.get("model") else []
    for stage in arm.get("stages") or []:
        grow = stage.get("grow") or {}
        if grow.get("depth") == "stack" and "num_hidden_layers" in (grow.get("to") or {}):
            depths.append(grow["to"]["num_hidden_layers"])
    return depths


def draw(rows: list[Row], path: Path) -> None:
    """Left: saving against the depth ratio, over the law. Right: the same rows against tokens per parameter."""
    import matplotlib
    from matplotlib.figure import Figure

    from outgrow.report.plot import STYLE, save_figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _by_ratio(left, rows)
        _by_tokens(right, rows)
        save_figure(figure, path)


def _color(row: Row) -> str:
    """By the number of growths; Muon is grey."""
    from outgrow.report.plot import COLORS, FAINT

    return FAINT if row.optimizer == "Muon" else COLORS[len(row.layers) - 2]


def _points(axes: Axes, rows: list[Row], places: list[float]) -> None:
    """A dot with its interval for each row; the area goes with the square root of the parameters."""
    for row, place in zip(rows, places, strict=True):
        size = 2 + 5 * (row.parameters / 1e6) ** 0.25
        axes.errorbar(
            place,
            row.saving,
            yerr=[[row.saving - row.low], [row.high - row.saving]],
            fmt="o",
            color=_color(row),
            markerfacecolor=_color(row) if row.against_any_size else "white",
            markersize=size,
            elinewidth=1.1,
            alpha=0.9,
        )


def _place(row: Row, alike: list[Row]) -> float:
    """Its ratio, beside the other rows of the same one."""
    return row.ratio * 2 ** (0.06 * (alike.index(row) - (len(alike) - 1) / 2))


def _by_ratio(axes: Axes, rows: list[Row]) -> None:
    from outgrow.report.plot import FAINT, quiet_axes

    for tokens, style in zip(LAW_TOKENS, (":", "-", "--"), strict=True):
        law = [law_saving(ratio, tokens) for ratio in RATIOS]
        axes.plot(
            RATIOS, law, style, color=FAINT, linewidth=1.1, zorder=0, label=f"law, {tokens} tokens/parameter"
        )
    _points(axes, rows, [_place(row, [one for one in rows if one.ratio == row.ratio]) for row in rows])
    axes.set_xscale("log", base=2)
    axes.set_xticks(RATIOS, [f"×{ratio}" for ratio in RATIOS])
    axes.set(xlabel="layers, last to first", ylabel="compute saved at equal loss (%)")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    quiet_axes(axes)


def _by_tokens(axes: Axes, rows: list[Row]) -> None:
    from outgrow.report.plot import COLORS, FAINT, INK, quiet_axes

    reach = [8, 10, 12, 15, 20, 25, 30]
    axes.plot(
        reach,
        [law_saving(4, tokens) for tokens in reach],
        color=FAINT,
        linewidth=1.1,
        label="law, ×4",
        zorder=0,
    )
    _points(axes, rows, [row.read_at for row in rows])
    words = ("one growth", "two growths", "three growths")
    for hops in sorted({len(row.layers) - 2 for row in rows}):
        axes.plot([], [], "o", color=COLORS[hops], label=words[hops])
    axes.plot([], [], "o", color=FAINT, label="one growth, Muon")
    axes.plot([], [], "o", color=INK, markerfacecolor="white", label="hollow: not against other sizes")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(xlabel="read at, tokens per parameter")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    quiet_axes(axes)


def main() -> None:
    """Take in the studies that are named, then draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", metavar="PAGE=FOLDER", help="With a study.json.")
    path = STATIC / "savings.json"
    rows = [Row(**row) for row in json.loads(path.read_text())]
    for named in parser.parse_args().studies:
        page, folder = named.split("=", 1)
        study = json.loads((Path(folder) / "study.json").read_text())
        rows = [row for row in rows if row.page != page] + rows_of(page, study)
    lines = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
    path.write_text("[\n " + ",\n ".join(lines) + "\n]\n")
    draw(rows, STATIC / "saving-by-ratio.svg")


if __name__ == "__main__":
    main()
