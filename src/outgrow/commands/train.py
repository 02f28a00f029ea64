"""`outgrow train`, without the command line: one call that does a run and says what it came to."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outgrow.commands.console import open_console
from outgrow.errors import printable
from outgrow.files.yaml_file import dump_yaml
from outgrow.parallel.ranks import Ranks, start_ranks
from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run
from outgrow.training.stage_plans import StagePlan


def run_command(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    as_json: bool = False,
    processes: int = 1,
) -> dict[str, Any]:
    """Do (or with `dry_run` only size up) the run of a file; prints a table, or with `as_json` JSON.

    Started by torchrun, every process calls this, and rank 0 talks; a dry run may be of more `processes` than do it.

    Progress goes to standard error, the table or JSON to standard output. The result is plain data: with `dry_run` that of
    `DryRun.as_dict`, else that of `RunResult.as_dict` with the paths of the report. Raises `OutgrowError`.

    >>> run_command("examples/quickstart.yaml", ["stages.0.tokens=1M"])  # doctest: +SKIP
    """
    ranks = start_ranks()
    with ranks.watched():
        run = ranks.together(lambda: load_run(path, overrides))
        if ranks.leads and not as_json:
            print(printable(dump_yaml(run.resolved())), file=sys.stderr)
        result = _dry(run, as_json, ranks, processes) if dry_run else _train(run, as_json, ranks)
        if ranks.leads and as_json:
            print(json.dumps(result, indent=1))
    return result


def _dry(run: RunConfig, as_json: bool, ranks: Ranks, processes: int) -> dict[str, Any]:
    from outgrow.training.dry import dry_run

    dry = dry_run(run, max(ranks.world, processes))
    if ranks.leads and not as_json:
        from outgrow.report.rates import rate_line, rate_table
        from outgrow.report.text import dry_table

        console = open_console()
        console.print(dry_table(dry))
        console.print(rate_table(dry.rates))
        console.print(rate_line(dry.rate_points))
        for warning in dry.warnings:
            console.print(f"warning: {warning}")
    return dry.as_dict()


def _train(run: RunConfig, as_json: bool, ranks: Ranks) -> dict[str, Any]:
    from outgrow.report.run import run_report
    from outgrow.training.loop import train_run

    result = train_run(run, before=_show_rates, ranks=ranks)
    if not ranks.leads:
        return result.as_dict()
    report = run_report(result.output)
    if not as_json:
        console = open_console()
        console.print(report.table())
        paths = {"report: ": report.html, "picture:": report.png, "model:  ": result.output / "final"}
        for what, path in paths.items():
            console.print(f"{what} {path}", soft_wrap=True)
    return {**result.as_dict(), "report": str(report.html), "picture": str(report.png)}


def _show_rates(run: RunConfig, plans: Sequence[StagePlan], root: Path) -> None:
    """The learning rate of the whole run, on standard error and as a picture in its folder, before the first step."""
    from outgrow.report.rates import draw_rates, rate_line, rate_table
    from outgrow.training.rates import rate_points, stage_rates

    rates, points = stage_rates(run, plans), rate_points(run, plans)
    console = open_console(errors=True)
    console.print(rate_table(rates))
    console.print(rate_line(points))
    draw_rates(points, rates, root / "learning_rate.png", f"{root.name}: learning rate")
