"""What a run came to, read from its metrics.jsonl: one row per stage."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outgrow.store.libraries import versions
from outgrow.text.numbers import amount, duration
from outgrow.text.table import TextTable
from outgrow.training.folder import RunFolder, finished_metrics, read_metrics
from outgrow.training.run_log import LoggedStage, RunLog


@dataclass(frozen=True)
class StageResult:
    """One stage: losses are validation losses in nats per target; None where there is none (yet)."""

    name: str
    parameters: int
    tokens: int
    flops: float
    loss_before_growth: float | None
    loss_after_growth: float | None
    final_loss: float | None
    seconds: float
    sequences: int | None = None
    """Of one optimizer step."""
    sequence_length: int | None = None
    """Tokens of a sequence that it trains on; None for images."""
    validation_length: int | None = None
    """Tokens of a sequence that it is validated on: the same in every stage, so that losses compare."""
    precision: str | None = None
    """That it trains and is validated in."""
    optimizer: Mapping[str, Any] | None = None
    """Numbers of the optimizer that are its own."""


@dataclass(frozen=True)
class RunResult:
    """All stages of a run, and where it is; `print` shows them as a table."""

    output: Path
    stages: tuple[StageResult, ...]
    already_finished: bool = False

    def table(self) -> TextTable:
        """A row per stage, and the whole."""
        note = "Losses are validation losses in nats per target."
        return TextTable(str(self.output), COLUMNS, stage_rows(self.stages), note + reading_note(self.stages))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "output": str(self.output),
            "already_finished": self.already_finished,
            "stages": [asdict(stage) for stage in self.stages],
        }


COLUMNS = (
    "stage",
    "parameters",
    "tokens",
    "FLOPs",
    "loss before growth",
    "after growth",
    "final loss",
    "time",
)


def stage_rows(stages: Sequence[StageResult]) -> list[tuple[str, ...]]:
    """The table's cells, one row per stage and one for the whole."""
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        rows.append(
            (
                stage.name,
                f"{stage.parameters:,}",
                amount(stage.tokens),
                amount(stage.flops),
                _loss(stage.loss_before_growth),
                _loss(stage.loss_after_growth),
                _loss(stage.final_loss),
                duration(stage.seconds),
            )
        )
    if len(stages) > 1:
        tokens, flops = sum(s.tokens for s in stages), sum(s.flops for s in stages)
        final = _loss(stages[-1].final_loss)
        rows.append(
            (
                "whole",
                "",
                amount(tokens),
                amount(flops),
                "",
                "",
                final,
                duration(sum(s.seconds for s in stages)),
            )
        )
    return rows


def reading_note(stages: Sequence[StageResult]) -> str:
    """In what stages differ from each other or from validation, in words; nothing where all is alike."""
    return "".join(found for found in (_batches(stages), _precisions(stages), _numbers(stages)) if found)


def _precisions(stages: Sequence[StageResult]) -> str:
    known = {stage.precision for stage in stages}
    if len(known) == 1 or None in known:  # a log of an older version says none
        return ""
    return (
        f" Precision, of validation too: {', '.join(f'{stage.name} {stage.precision}' for stage in stages)}."
    )


def _numbers(stages: Sequence[StageResult]) -> str:
    own = [
        f"{stage.name} {', '.join(f'{name} {value}' for name, value in stage.optimizer.items())}"
        for stage in stages
        if stage.optimizer
    ]
    return f" The optimizer's own numbers: {'; '.join(own)}." if own else ""


def _batches(stages: Sequence[StageResult]) -> str:
    batches = {(stage.sequences, stage.sequence_length) for stage in stages}
    lengths = {(stage.sequence_length, stage.validation_length) for stage in stages}
    if len(batches) == 1 and all(trained == asked for trained, asked in lengths):
        return ""
    own = ", ".join(
        f"{stage.name} {stage.sequences}" + (f" x {stage.sequence_length}" if stage.sequence_length else "")
        for stage in stages
    )
    asked = stages[0].validation_length
    fixed = f"; every stage is validated on sequences of {asked} tokens" if asked else ""
    return f" Sequences of a step{' x tokens of each' if asked else ''}: {own}{fixed}."


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def read_result(folder: RunFolder) -> RunResult:
    """The table of a run, finished or not."""
    return RunResult(folder.root, stage_results(read_log(folder)))


def read_log(folder: RunFolder) -> RunLog:
    """The log of a run, finished or not; empty where there is none."""
    return RunLog.of(finished_metrics(folder) if folder.is_finished else read_metrics(folder.metrics))


def stage_results(log: RunLog) -> tuple[StageResult, ...]:
    """One result per stage that has begun."""
    return tuple(_stage_result(stage) for stage in log.stages)


def _stage_result(stage: LoggedStage) -> StageResult:
    growth, began, last = stage.growth, stage.began, stage.last
    return StageResult(
        name=stage.name,
        parameters=stage.parameters,
        tokens=last.tokens - began.tokens,
        flops=last.flops - began.flops + stage.probe_flops,
        loss_before_growth=None if growth is None else growth.loss_before,
        loss_after_growth=None if growth is None else growth.loss_after,
        final_loss=stage.validations[-1].loss if stage.validations else None,
        seconds=round(last.seconds - began.seconds + (0.0 if growth is None else growth.seconds), 3),
        sequences=stage.sequences,
        sequence_length=stage.sequence_length,
        validation_length=stage.validation_length,
        precision=stage.precision,
        optimizer=stage.optimizer,
    )


def machine() -> dict[str, Any]:
    """Versions and machine, and the command that was given."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "outgrow")  # python -m outgrow
    return {
        "python": platform.python_version(),
        "versions": versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "command": shlex.join([program, *sys.argv[1:]]),
    }
