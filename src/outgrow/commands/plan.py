"""`outgrow plan`: a plan worked out and printed, with its picture and run.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import PlanCall
from outgrow.commands.outcome import Outcome
from outgrow.errors import ConfigError, printable
from outgrow.files.atomic import write_text_atomic
from outgrow.files.yaml_file import dump_yaml
from outgrow.planning.cautions import plan_cautions
from outgrow.planning.config import CurveConfig, FitLaw
from outgrow.planning.plan_file import load_plan
from outgrow.planning.plan_law import SizeLaw, fitted_law
from outgrow.planning.planned_run import planned_run
from outgrow.planning.summary import law_summary, summary
from outgrow.planning.worked import WorkedPlan, work_out
from outgrow.report.plot import check_picture

if TYPE_CHECKING:
    from rich.console import Console

_WRITTEN = "# Written by `outgrow plan"


@dataclass(frozen=True)
class Planned(Outcome):
    """A plan that was worked out, and where its picture and its run were written."""

    worked: WorkedPlan
    plot: Path | None
    run: Path | None
    notes: tuple[str, ...]
    """How the run fits this machine."""

    def show(self, console: Console) -> None:
        """The law, the plan beside its baseline, rules, and cautions."""
        from outgrow.report.operator_costs import operator_costs_table, operator_notes
        from outgrow.report.plan import law_table, plan_table, rules_table

        worked = self.worked
        if worked.law.fitted:
            console.print(law_table(worked.law))
        else:
            console.print(f"Law: {worked.law.words}")
        _print_notes(console, worked.law)
        if worked.measured:
            console.print(operator_costs_table(worked.measured))
        for note in operator_notes(worked.measured):
            console.print(note, style="dim")
        console.print(plan_table(worked))
        if worked.rules:
            console.print(rules_table(worked))
        for text in (*plan_cautions(worked), *self.notes):
            console.print(f"! {text}", style="bold")
        for what, path in (("picture", self.plot), ("run", self.run)):
            if path is not None:
                console.print(f"{what}: {path}", soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """Everything that the tables and the picture show."""
        told = summary(self.worked)
        return {**told, "warnings": [*told["warnings"], *self.notes]}


@dataclass(frozen=True)
class LawFitted(Outcome):
    """A law, without a plan."""

    law: SizeLaw

    def show(self, console: Console) -> None:
        """Its constants, and what of each curve was left out."""
        from outgrow.report.plan import law_table

        console.print(law_table(self.law))
        _print_notes(console, self.law)

    def to_json(self) -> dict[str, Any]:
        """Its constants, quality and range."""
        return law_summary(self.law)


def run(call: PlanCall, console: Console) -> Planned | LawFitted:
    """Work out the plan of a file, its law fitted to the curves of `fit` if there are any; without a plan file, only fit.

    `files` holds at most one .yaml; other files are curves as in `fit` (a shell expands `--fit runs/*` like that).
    Raises `OutgrowError`; nothing is written before the plan is whole.
    """
    plan, curves = _sorted(call)
    if plan is None:
        if call.plot is not None or call.run is not None or call.overrides:
            raise ConfigError("--plot, --run and --set need a plan.yaml: without one, curves are only fitted")
        return LawFitted(fitted_law(FitLaw(), curves))
    if call.run is not None:
        _check_run_file(call.run)
    if call.plot is not None:
        check_picture(call.plot)
    worked = work_out(load_plan(plan, call.overrides), curves)
    summary(worked)  # what cannot be told is an error before anything is written
    notes = () if call.run is None else _write_run(call.run, plan, worked)
    if call.plot is not None:
        from outgrow.report.plan import draw_plan

        draw_plan(worked, call.plot)
    return Planned(worked, call.plot, call.run, notes)


def _write_run(path: Path, plan: Path, worked: WorkedPlan) -> tuple[str, ...]:
    """Write the run.yaml; returns what there is to say of it."""
    planned, notes = planned_run(worked)
    named = printable(str(plan)).replace("\n", " ")  # a comment is one line
    write_text_atomic(path, f"{_WRITTEN} {named}`.\n" + dump_yaml(planned.resolved()))
    return notes


def _sorted(call: PlanCall) -> tuple[Path | None, list[CurveConfig]]:
    """The plan file, if there is one, and the curves."""
    plans = [file for file in call.files if file.suffix in (".yaml", ".yml")]
    curves = [*call.fit, *(str(file) for file in call.files if file not in plans)]
    if len(plans) > 1:
        raise ConfigError("more than one plan file", got=", ".join(map(str, plans)))
    if len(curves) > len(call.fit) and not call.fit:
        raise ConfigError(
            f"{curves[0]} is not a plan file", expected="a .yaml", fix="curves come after --fit"
        )
    if not plans and not curves:
        raise ConfigError("nothing to plan: give a plan.yaml, or curves with --fit")
    return next(iter(plans), None), [CurveConfig(path=path) for path in curves]


def _check_run_file(path: Path) -> None:
    """Only what a plan wrote is replaced by a plan."""
    if not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise ConfigError(f"--run {path} cannot be written", expected="a file in a folder that is there")
    if path.is_file() and not _begins(path, _WRITTEN.encode()):
        raise ConfigError(
            f"{path} was not written by `outgrow plan`, so it is not replaced", fix="name another file"
        )


def _begins(path: Path, words: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(words)) == words


def _print_notes(console: Console, law: SizeLaw) -> None:
    """What of each curve was left out."""
    for curve in law.curves:
        for note in curve.notes:
            console.print(f"{curve.source}: {note}", style="dim")
