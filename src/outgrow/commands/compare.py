"""`outgrow compare`, without the command line: a study done, and a report with everything needed to do it again.

saving = 1 - C_staged / C_scratch at equal decayed loss        C in FLOPs and in seconds
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.console import open_console
from outgrow.comparing import StudyResult, load_study
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import estimate
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
    pass


@dataclass(frozen=True)
class StudyReport:
    """Where the report of a study is."""

    html: Path
    markdown: Path
    png: Path
    json: Path


def compare_command(path: str | Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> StudyReport:
    """Do a study, or what is left of it, and report on it."""
    study, notes, console = load_study(path, overrides), open_console(errors=True), open_console()
    say = notes.print
    savings = measure_savings(study, say)
    study_report(savings)  # they stay, whatever the scores come to
    result = with_scores(savings, say)
    report = study_report(result)
    if as_json:
        print(json.dumps(result.to_json(), indent=1))
        return report
    console.print(study_verdict(result), style="bold", markup=False)
    for caution in result.cautions:
        console.print(f"caution: {caution}", style="yellow")
    for section in sections(result):
        console.print(section.rich())
    console.print(f"report: {report.html}\npicture: {report.png}", soft_wrap=True)
    return report


def compare_dry(path: str | Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Check a study and say what it takes and what is there; nothing is trained or written."""
    study = load_study(path, overrides)
    found = estimate(study, check_study(study, open_console(errors=True).print))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        open_console().print(estimate_section(found).rich())


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
