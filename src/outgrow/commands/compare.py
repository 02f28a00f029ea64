"""`outgrow compare`: a study done, and a report with everything needed to do it again.

saving = 1 - C_staged / C_scratch at equal decayed loss        C in FLOPs and in seconds
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.console import open_console
from outgrow.commands.options import CompareCall
from outgrow.commands.outcome import Outcome
from outgrow.comparing import StudyResult, load_study
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import ArmEstimate, estimate
from outgrow.comparing.runner import measure_savings, with_scores
from outgrow.files.atomic import write_text_atomic
from outgrow.files.yaml_file import dump_yaml
from outgrow.report.compare_picture import draw_frontiers
from outgrow.report.compare_tables import estimate_section, fenced, sections, study_verdict
from outgrow.report.html import html_page
from outgrow.text.numbers import amount, duration
from outgrow.text.table import as_markdown
from outgrow.training.result import machine

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class StudyReport:
    """Where the report of a study is."""

    html: Path
    markdown: Path
    png: Path
    json: Path


@dataclass(frozen=True)
class Compared(Outcome):
    """A study that was done, and where its report is."""

    result: StudyResult
    report: StudyReport

    def show(self, console: Console) -> None:
        """The verdict, what to mind, and the savings; all tables are in the report."""
        console.print(study_verdict(self.result), style="bold", markup=False)
        for caution in self.result.cautions:
            console.print(f"caution: {caution}", style="yellow")
        savings, *others = sections(self.result)
        console.print(savings.rich())
        more = f"   (there too: {', '.join(one.heading for one in others)})"
        console.print(f"report: {self.report.html}{more}\npicture: {self.report.png}", soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """Ends and savings as numbers."""
        return self.result.to_json()


@dataclass(frozen=True)
class StudySized(Outcome):
    """What a study takes, and what of it is there."""

    estimates: Sequence[ArmEstimate]

    def show(self, console: Console) -> None:
        """A row per arm."""
        console.print(estimate_section(self.estimates).rich())

    def to_json(self) -> list[dict[str, Any]]:
        """A record per arm."""
        return [asdict(one) for one in self.estimates]


def run(call: CompareCall, console: Console) -> Compared | StudySized:
    """Do a study, or what is left of it, and report on it; with `dry_run` check it and say what it takes."""
    study, say = load_study(call.study, call.overrides), open_console(errors=True).print
    if call.dry_run:
        return StudySized(estimate(study, check_study(study, say)))
    savings = measure_savings(study, say)
    study_report(savings)  # they stay, whatever the scores come to
    result = with_scores(savings, say)
    return Compared(result, study_report(result))


def study_report(result: StudyResult) -> StudyReport:
    """Write `report.html`, `report.md`, `frontier.png` and `frontier.svg` into the study's folder."""
    root = Path(result.study.output)
    png, svg = draw_frontiers(result, root)
    tables = sections(result)
    facts = machine()
    ends = result.points
    lead = (
        f"{len(result.study.arms)} arms, seeds {', '.join(map(str, result.study.seeds))}, "
        f"{amount(sum(point.flops for point in ends))} FLOPs and {duration(sum(point.seconds for point in ends))} "
        f"over all ends; sweeps {amount(result.sweep_flops)} FLOPs"
    )
    title = result.study.title or root.name
    configuration = dump_yaml(result.study.model_dump(mode="json", by_alias=True, exclude_unset=True))
    text = html_page(
        title=title,
        verdict=study_verdict(result),
        lead=lead,
        picture_svg=svg.read_bytes(),
        tables=tables,
        configuration=configuration,
        facts={
            **{k: str(v) for k, v in facts.items() if k != "versions"},
            **facts["versions"],
            "trained on": "; ".join(map(_machine, result.trained_on)),
        },
        command=str(facts["command"]),
        warnings=result.cautions,
    )
    write_text_atomic(root / "report.html", text)
    lines = [
        f"# {as_markdown(title)}",
        "",
        as_markdown(study_verdict(result)),
        "",
        lead,
        "",
        "![loss against FLOPs and time](frontier.svg)",
        "",
    ]
    lines += [f"> **Caution:** {as_markdown(caution)}\n" for caution in result.cautions]
    for section in tables:
        lines.append(section.markdown())
    lines += [
        as_markdown(f"Trained on: {'; '.join(map(_machine, result.trained_on))}."),
        "",
        "## Command",
        "",
        *fenced(str(facts["command"]), "sh"),
        *fenced(configuration, "yaml"),
    ]
    write_text_atomic(root / "report.md", "\n".join(lines))
    return StudyReport(root / "report.html", root / "report.md", png, root / "study.json")


def _machine(facts: Mapping[str, Any]) -> str:
    versions = facts["versions"]
    return f"{facts['device']}, {facts['system']}, torch {versions['torch']}, transformers {versions['transformers']}"
