"""`outgrow plan`, without the command line: one call that works a plan out, prints it, and writes picture and run.yaml."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.console import open_console
from outgrow.errors import ConfigError, printable
from outgrow.files.atomic import write_text_atomic
from outgrow.files.yaml_file import dump_yaml
from outgrow.planning.config import CurveConfig, FitLaw
from outgrow.planning.plan_file import load_plan
from outgrow.planning.plan_law import SizeLaw, fitted_law
from outgrow.planning.planned_run import planned_run
from outgrow.planning.summary import law_summary, summary
from outgrow.planning.worked import work_out
from outgrow.report.plot import check_picture

if TYPE_CHECKING:
    from rich.console import Console

_WRITTEN = "# Written by `outgrow plan"


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


def plan_command(
    files: Sequence[Path],
    fit: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    as_json: bool = False,
    plot: Path | None = None,
    run: Path | None = None,
) -> dict[str, Any]:
    """Work out the plan of a file, its law fitted to the curves of `fit` if there are any; without a plan file, only fit.

    `files` holds at most one .yaml; other files are curves as in `fit` (a shell expands `--fit runs/*` like that).
    Raises `OutgrowError`; nothing is written before the plan is whole.
    """
    plans = [file for file in files if file.suffix in (".yaml", ".yml")]
    curves = [*fit, *(str(file) for file in files if file not in plans)]
    if len(plans) > 1:
        raise ConfigError("more than one plan file", got=", ".join(map(str, plans)))
    if len(curves) > len(fit) and not fit:
        raise ConfigError(
            f"{curves[0]} is not a plan file", expected="a .yaml", fix="curves come after --fit"
        )
    if not plans:
        if not curves:
            raise ConfigError("nothing to plan: give a plan.yaml, or curves with --fit")
        if plot is not None or run is not None or overrides:
            raise ConfigError("--plot, --run and --set need a plan.yaml: without one, curves are only fitted")
        return _fit_only(curves, as_json)
    if run is not None:
        _check_run_file(run)
    if plot is not None:
        check_picture(plot)
    worked = work_out(load_plan(plans[0], overrides), [CurveConfig(path=path) for path in curves])
    result = summary(worked)
    if run is not None:
        named = printable(str(plans[0])).replace("\n", " ")  # a comment is one line
        planned, notes = planned_run(worked)
        write_text_atomic(run, f"{_WRITTEN} {named}`.\n" + dump_yaml(planned.resolved()))
        result["warnings"] += notes
    if plot is not None:
        from outgrow.report.plan import draw_plan

        draw_plan(worked, plot)
    if as_json:
        print(json.dumps(result, indent=1))
        return result
    from outgrow.report.operator_costs import operator_costs_table, operator_notes
    from outgrow.report.plan import law_table, plan_table, rules_table

    console = open_console()
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
    for text in result["warnings"]:
        console.print(f"! {text}", style="bold")
    for what, path in (("picture", plot), ("run", run)):
        if path is not None:
            console.print(f"{what}: {path}", soft_wrap=True)
    return result


def _fit_only(curves: Sequence[str], as_json: bool) -> dict[str, Any]:
    law = fitted_law(FitLaw(), [CurveConfig(path=path) for path in curves])
    result = law_summary(law)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        from outgrow.report.plan import law_table

        console = open_console()
        console.print(law_table(law))
        _print_notes(console, law)
    return result


def _print_notes(console: Console, law: SizeLaw) -> None:
    """What of each curve was left out."""
    for curve in law.curves:
        for note in curve.notes:
            console.print(f"{curve.source}: {note}", style="dim")
