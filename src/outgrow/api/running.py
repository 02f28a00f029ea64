"""`train` and `compare`: a run or a study from its file, with its report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from outgrow.commands.compare import study_report
from outgrow.commands.console import open_console
from outgrow.comparing import StudyResult, load_study
from outgrow.comparing.runner import measure_savings, with_scores
from outgrow.report.run import run_report
from outgrow.training.folder import load_to_train
from outgrow.training.loop import train_run
from outgrow.training.result import RunResult


def train(path: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> RunResult:
    """Do a run of `outgrow train`, or what is left of it, and write its report beside it; the result prints as a table.

    `overrides` change keys of the file, as `["stages.0.tokens=1M"]`. Raises `OutgrowError` before any work.

    >>> train("examples/quickstart.yaml").stages[-1].final_loss  # doctest: +SKIP
    4.292
    """
    result = train_run(load_to_train(path, overrides), progress=progress)
    run_report(result.output)
    return result


def compare(path: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> StudyResult:
    """Do a study of `outgrow compare`, or what is left of it, and write its report; the result prints in a line.

    `overrides` change keys of the file, as `["seeds=[0]"]`. Raises `OutgrowError` before any work.
    """
    say = partial(open_console(errors=True, quiet=not progress).print, markup=False)
    result = with_scores(measure_savings(load_study(path, overrides), say), say)
    study_report(result)
    return result
