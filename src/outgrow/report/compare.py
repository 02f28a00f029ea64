"""The report of a study: decayed frontiers as a picture, savings as a table, and everything needed to do it again.

saving = 1 - C_staged / C_scratch at equal decayed loss        speed-up = C_scratch / C_staged - 1
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from outgrow.report.html import page
from outgrow.report.plot import COLORS, FAINT, INK
from outgrow.report.text import amount, duration
from outgrow.store.atomic import write_text_atomic
from outgrow.train.compare import StudyResult, load_study, run_study
from outgrow.train.compare.saving import Saving, compute_at
from outgrow.train.run_file import dump_yaml

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

COLUMNS = ("arm", "rate", "FLOPs", "decayed loss", "saving", "90 % interval", "speed-up", "against any size")
NOTE = (
    "Saving: compute saved at equal decayed validation loss, the small stages and the growth counted, read off the baseline's "
    "frontier by interpolation, never beyond it. Interval over seeds. Against any size: the same against the best model from "
    "scratch of any size in the study. The sweep of learning rates is the same for all arms and not counted."
)


@dataclass(frozen=True)
class StudyReport:
    """Where the report of a study is."""

    html: Path
    markdown: Path
    png: Path
    json: Path


def compare_command(path: str | Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> StudyReport:
    """Do a study, or what is left of it, and report on it."""
    from rich.console import Console

    console = Console(stderr=True)
    study = load_study(path, overrides)
    result = run_study(study, say=lambda text: console.print(text, highlight=False))
    report = study_report(result)
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        Console().print(study_table(result))
        Console().print(f"report: {report.html}\npicture: {report.png}")
    return report


def study_report(result: StudyResult) -> StudyReport:
    """Write `report.html`, `report.md`, `frontier.png` and `frontier.svg` into the study's folder."""
    root = Path(result.study.output)
    png, svg = draw_frontiers(result, root)
    rows = study_rows(result)
    facts = result.to_json()["machine"]
    lead = (
        f"{len(result.study.arms)} arms, seeds {', '.join(map(str, result.study.seeds))}, "
        f"{amount(sum(point.flops for point in result.points))} FLOPs in all ends; sweeps {amount(result.sweep_flops)}; "
        f"{duration(sum(point.seconds for point in result.points))}"
    )
    title = result.study.title or root.name
    text = page(
        title=title,
        lead=lead,
        picture_svg=svg.read_bytes(),
        columns=COLUMNS,
        rows=rows,
        configuration=dump_yaml(result.study.model_dump(mode="json", exclude_unset=True)),
        facts={**{k: str(v) for k, v in facts.items() if k != "versions"}, **facts["versions"]},
        command=str(facts["command"]),
        heading="Savings",
        note=NOTE,
    )
    write_text_atomic(root / "report.html", text)
    markdown = [
        f"# {title}",
        "",
        lead,
        "",
        "![loss against FLOPs](frontier.svg)",
        "",
        _markdown(COLUMNS),
        _markdown("-" * 3 for _ in COLUMNS),
    ]
    markdown += [_markdown(row) for row in rows] + ["", NOTE, ""]
    write_text_atomic(root / "report.md", "\n".join(markdown))
    return StudyReport(root / "report.html", root / "report.md", png, root / "study.json")


def study_rows(result: StudyResult) -> list[tuple[str, ...]]:
    """One row per arm and budget."""
    compute, losses = result.best_scratch()
    rows: list[tuple[str, ...]] = []
    for arm, found in result.savings().items():
        for one in found:
            any_size, side = compute_at(compute, losses, one.loss)
            against = _percent(1 - one.compute / any_size) if any_size is not None else side
            rows.append(
                (
                    arm,
                    f"{result.rates[arm]:g}",
                    amount(one.compute),
                    f"{one.loss:.4f}",
                    one.side if one.saving is None else _percent(one.saving),
                    _interval(one),
                    "" if one.speed_up is None else _percent(one.speed_up),
                    against,
                )
            )
    return rows


def study_table(result: StudyResult) -> Table:
    """The savings as a rich table."""
    from rich.table import Table

    table = Table(
        title="compute saved at equal decayed loss, everything counted",
        title_style="dim",
        title_justify="left",
    )
    for place, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
    previous = ""
    for row in study_rows(result):
        if previous and row[0] != previous:
            table.add_section()
        table.add_row(*(("", "", *row[2:]) if row[0] == previous else row))
        previous = row[0]
    return table


def draw_frontiers(result: StudyResult, folder: Path) -> tuple[Path, Path]:
    """Decayed loss against FLOPs, one line per arm, a dot per seed."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "svg.fonttype": "path",
        "svg.hashsalt": "outgrow",
        "text.color": INK,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.0, 5.2), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for place, arm in enumerate(result.study.arms):
            _draw_arm(axes, result, arm, COLORS[place % len(COLORS)])
        _style(axes)
        axes.set_title(
            result.study.title or folder.name, loc="left", fontsize=12.5, fontweight="bold", pad=12
        )
        paths = folder / "frontier.png", folder / "frontier.svg"
        figure.savefig(paths[0])
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _draw_arm(axes: Axes, result: StudyResult, arm: str, color: str) -> None:
    frontier = result.frontier(arm)
    scratch = result.study.arms[arm].is_scratch
    low, high = (np.asarray(frontier.losses).min(axis=0), np.asarray(frontier.losses).max(axis=0))
    axes.fill_between(frontier.compute, low, high, color=color, alpha=0.12, linewidth=0)
    axes.plot(
        frontier.compute,
        frontier.mean(),
        color=color,
        linewidth=2.0,
        linestyle=(0, (5, 2)) if scratch else "-",
        marker="o",
        markersize=5,
        label=f"{arm} (nothing grows)" if scratch else arm,
    )
    for row in frontier.losses:
        axes.plot(frontier.compute, row, color=color, linestyle="", marker="o", markersize=2.5, alpha=0.6)


def _style(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.xaxis.set_minor_formatter(
        EngFormatter(sep=" ") if np.ptp(np.log10(axes.get_xlim())) < 1.2 else NullFormatter()
    )
    axes.set_xlabel("FLOPs, everything counted")
    axes.set_ylabel("decayed validation loss (nats per token)")
    axes.grid(axis="y", color="#e7eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9cfd6")
    axes.tick_params(length=0, which="both", labelcolor=INK, color=FAINT)
    axes.legend(frameon=False, loc="upper right", fontsize=9.5)


def _interval(one: Saving) -> str:
    return "" if one.low is None or one.high is None else f"{_percent(one.low)} to {_percent(one.high)}"


def _percent(value: float) -> str:
    return f"{100 * value + 0.0:.1f} %".replace("-0.0 %", "0.0 %")


def _markdown(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
