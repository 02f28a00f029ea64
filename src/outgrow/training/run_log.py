"""The log of a run as values: what each stage was, where it went, and on which machine.

Rows of `metrics.jsonl` are checked where they are read (`files/metrics_file.py`); here alone they are asked by their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class LogPlace:
    """How far a run was when a row was written; the whole run, all stages."""

    tokens: int
    flops: float
    seconds: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The place of a row."""
        return cls(row["tokens"], row["flops"], row["seconds"])


@dataclass(frozen=True)
class LogPoint:
    """A loss in nats per target, and the FLOPs of the run until then."""

    flops: float
    loss: float


@dataclass(frozen=True)
class LoggedGrowth:
    """What a growth did to the validation loss, and how long it took."""

    flops: float
    loss_before: float
    loss_after: float
    seconds: float


@dataclass(frozen=True)
class LoggedTrial:
    """One operator of a probe: its training losses step by step, and the validation loss at the end; None: diverged."""

    width: str
    depth: str
    losses: Sequence[float]
    loss_at_end: float | None


@dataclass(frozen=True)
class LoggedStage:
    """A stage that has begun."""

    name: str
    parameters: int
    began: LogPlace
    last: LogPlace
    train: tuple[LogPoint, ...]
    validations: tuple[LogPoint, ...]
    growth: LoggedGrowth | None = None
    """The growth that it began with."""
    probe_flops: float = 0.0
    trials: tuple[LoggedTrial, ...] = ()
    """Best first."""
    sequences: int | None = None
    sequence_length: int | None = None
    validation_length: int | None = None
    precision: str | None = None
    optimizer: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, opening: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> Self:
        """A stage by the row that opens it, and all rows that carry its name, in their order."""
        by_kind: dict[str, list[Mapping[str, Any]]] = {}
        for row in own:
            by_kind.setdefault(row["kind"], []).append(row)
        growths = [
            LoggedGrowth(row["flops"], row["loss_before"], row["loss_after"], row.get("growth_seconds", 0.0))
            for row in by_kind.get("growth", ())
        ]
        trials = [
            LoggedTrial(one["width"], one["depth"], one["losses"], one["loss_at_end"])
            for row in by_kind.get("probe", ())
            for one in row["trials"]
        ]
        return cls(
            name=opening["stage"],
            parameters=opening["parameters"],
            began=LogPlace.of(opening),
            last=LogPlace.of(own[-1]),
            train=tuple(LogPoint(row["flops"], row["loss"]) for row in by_kind.get("train", ())),
            validations=tuple(
                LogPoint(row["flops"], row["val_loss"]) for row in by_kind.get("validation", ())
            ),
            growth=growths[0] if growths else None,
            probe_flops=opening.get("probe_flops", 0.0),
            trials=tuple(trials),
            sequences=opening.get("sequences"),
            sequence_length=opening.get("sequence_length"),
            validation_length=opening.get("validation_length"),
            precision=opening.get("precision"),
            optimizer=opening.get("optimizer"),
        )


@dataclass(frozen=True)
class LoggedMachine:
    """Where a run was begun, and by which command; empty where the log does not say."""

    facts: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """The machine of a row that `training/result.py` wrote."""
        told = {name: str(row[name]) for name in ("device", "processors", "system", "python") if name in row}
        versions = {name: str(version) for name, version in row.get("versions", {}).items()}
        return cls({**told, **versions}, str(row.get("command", "")))


@dataclass(frozen=True)
class RunLog:
    """All of a run so far."""

    stages: tuple[LoggedStage, ...] = ()
    machine: LoggedMachine = LoggedMachine()

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Self:
        """The log of rows that were checked.

        >>> place = {"stage": "small", "tokens": 0, "flops": 0.0, "seconds": 0.0}
        >>> opening = {"kind": "stage", **place, "parameters": 800}
        >>> end = {"kind": "validation", **place, "tokens": 9, "flops": 2e9, "val_loss": 4.5}
        >>> log = RunLog.of([opening, end])
        >>> log.stages[0].last.tokens, log.validations
        (9, (LogPoint(flops=2000000000.0, loss=4.5),))
        """
        machines = [row for row in rows if row["kind"] == "machine"]
        stages = [
            LoggedStage.of(opening, [row for row in rows if row.get("stage") == opening["stage"]])
            for opening in rows
            if opening["kind"] == "stage"
        ]
        return cls(tuple(stages), LoggedMachine.of(machines[0]) if machines else LoggedMachine())

    @property
    def train(self) -> tuple[LogPoint, ...]:
        """Training losses of all stages."""
        return tuple(point for stage in self.stages for point in stage.train)

    @property
    def validations(self) -> tuple[LogPoint, ...]:
        """Validation losses of all stages."""
        return tuple(point for stage in self.stages for point in stage.validations)
