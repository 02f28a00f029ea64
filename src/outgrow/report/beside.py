"""A staged run beside the same model from scratch: one sentence, one table, one picture, of what was measured alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError
from outgrow.files.atomic import write_text_atomic
from outgrow.report.html import html_page
from outgrow.report.plot import COLORS, FAINT, STYLE, quiet_axes, save_figure
from outgrow.text.numbers import amount, duration
from outgrow.text.table import TextTable
from outgrow.training.folder import RunFolder
from outgrow.training.result import read_log, stage_results
from outgrow.training.run_log import RunLog

CAUTIONS = (
    "So short a training flatters growth: from scratch, the first tokens are the dearest. One seed, one learning rate, "
    "nothing tuned.",
    "Tuned, over several seeds and at equal decayed loss, growth saves far less, with Muon nothing, and a shallower model "
    "from scratch can be better: docs/results in the repository has the honest numbers.",
)


@dataclass(frozen=True)
class Beside:
    """Both logs, and what they came to. Losses are validation losses in nats per target."""

    grown: RunLog
    scratch: RunLog

    @property
    def flops(self) -> tuple[float, float]:
        """What both cost."""
        return self.grown.stages[-1].last.flops, self.scratch.stages[-1].last.flops

    @property
    def losses(self) -> tuple[float, float]:
        """Where both end: grown, from scratch."""
        return self.grown.validations[-1].loss, self.scratch.validations[-1].loss

    @property
    def flops_at_scratch_loss(self) -> float | None:
        """FLOPs of the grown run at its first validation that is no worse than the end of the other; None: never."""
        end = self.losses[1]
        return next((point.flops for point in self.grown.validations if point.loss <= end), None)

    @property
    def verdict(self) -> str:
        """What came out, in a sentence."""
        (grown, scratch), (cost, _), passed = self.losses, self.flops, self.flops_at_scratch_loss
        head = f"For the same compute ({amount(cost)} FLOPs, one seed, untuned): grown {grown:.2f}, from scratch {scratch:.2f}"
        if grown >= scratch or passed is None:
            return f"{head}. Here the growth did not pay."
        return f"{head}; the grown run was there after {amount(passed)} FLOPs."

    def table(self) -> TextTable:
        """A row per stage, the staged run as a whole, and the baseline."""
        columns = ("run", "parameters", "tokens", "FLOPs", "final loss", "time")
        stages, (scratch,) = stage_results(self.grown), stage_results(self.scratch)
        rows = [
            (
                f"grown: {one.name}",
                f"{one.parameters:,}",
                amount(one.tokens),
                amount(one.flops),
                _loss(one.final_loss),
                duration(one.seconds),
            )
            for one in stages
        ]
        tokens, seconds = sum(one.tokens for one in stages), sum(one.seconds for one in stages)
        ends = (_loss(self.losses[0]), duration(seconds))
        rows.append(
            ("grown, all", f"{stages[-1].parameters:,}", amount(tokens), amount(self.flops[0]), *ends)
        )
        ends = (_loss(self.losses[1]), duration(scratch.seconds))
        rows.append(
            ("from scratch", f"{scratch.parameters:,}", amount(scratch.tokens), amount(self.flops[1]), *ends)
        )
        return TextTable(
            "the same compute, twice", columns, rows, "Losses are validation losses in nats per target."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        (grown, scratch), (cost, other) = self.losses, self.flops
        return {
            "verdict": self.verdict,
            "loss_grown": grown,
            "loss_scratch": scratch,
            "flops_grown": cost,
            "flops_scratch": other,
            "flops_at_scratch_loss": self.flops_at_scratch_loss,
        }


def read_beside(grown: Path, scratch: Path) -> Beside:
    """Both runs, from their folders. Raises ConfigError where one of them has not ended."""
    logs = [read_log(RunFolder(folder)) for folder in (grown, scratch)]
    for folder, log in zip((grown, scratch), logs, strict=True):
        if not log.validations:
            raise ConfigError(f"no finished run: {folder}", expected="a run with validation losses")
    return Beside(*logs)


def write_comparison(beside: Beside, root: Path, configuration: str, command: str) -> tuple[Path, Path]:
    """`compare.html` and `compare.png` (and .svg) in `root`."""
    png, svg = _draw(beside, root)
    text = html_page(
        title="outgrow: grown, and from scratch",
        verdict=beside.verdict,
        lead="One model is small at first and grows; the other is large from the start. Both see the same text in the same order.",
        picture_svg=svg.read_bytes(),
        tables=[beside.table()],
        configuration=configuration,
        facts=beside.grown.machine.facts,
        command=command,
        warnings=CAUTIONS,
    )
    write_text_atomic(root / "compare.html", text)
    return root / "compare.html", png


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _draw(beside: Beside, root: Path) -> tuple[Path, Path]:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.0), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        ends = list(
            zip((beside.scratch, beside.grown), ("from scratch", "grown"), (FAINT, COLORS[0]), strict=True)
        )
        for log, name, color in ends:
            curve = [(point.flops, point.loss) for point in log.validations]
            axes.plot(
                *zip(*curve, strict=True), color=color, linewidth=2.2, marker="o", markersize=4, label=name
            )
            place = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "fontweight": "bold"}
            axes.annotate(f"{curve[-1][1]:.2f}", curve[-1], color=color, **place)  # type: ignore[arg-type]
        for growth in (stage.growth for stage in beside.grown.stages if stage.growth is not None):
            axes.axvline(growth.flops, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
            axes.annotate(
                "growth",
                (growth.flops, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(6, 0),
                textcoords="offset points",
                va="top",
                fontsize=9,
                color=FAINT,
            )
        low = min(beside.losses)
        highest = sorted(point.loss for log, *_ in ends for point in log.validations)[-3]
        axes.set_ylim(low - 0.08 * (highest - low), highest + 0.05 * (highest - low))
        axes.set_xlim(left=0, right=1.07 * max(beside.flops))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_xlabel("FLOPs, small model included")
        axes.set_ylabel("validation loss (nats per target)")
        axes.set_title(
            "The same compute: grown, and from scratch", loc="left", fontsize=12.5, fontweight="bold", pad=12
        )
        quiet_axes(axes)
        axes.legend(frameon=False, loc="upper right")
        paths = root / "compare.png", root / "compare.svg"
        for path in paths:
            save_figure(figure, path)
    return paths
