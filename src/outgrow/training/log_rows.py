"""The rows that a run writes to its log: each says where the run stands, and one thing about it.

    machine   versions, once until they change         train        means over the steps since the row before
    stage     what the model of a stage is             any other    what its writer adds to `log_row`

`run_log.py` reads them as values.
"""

from __future__ import annotations

import time
from typing import Any

from outgrow.engine.step import Step
from outgrow.models.routing import NAMES as ROUTING
from outgrow.training.course import Course
from outgrow.training.folder import read_metrics
from outgrow.training.result import machine
from outgrow.training.session import Live, Session


def log_row(session: Session, kind: str, live: Live) -> dict[str, Any]:
    """What every row has: where the run stands, counted over all stages."""
    return row_at(session, kind, live.course, live.step)


def row_at(session: Session, kind: str, course: Course, step: int) -> dict[str, Any]:
    """The same for a place in the run at which no model lives."""
    run = session.run
    return {
        "kind": kind,
        "stage": run.stages[course.stage].name,
        "step": step,
        "tokens": course.tokens(step),
        "flops": course.flops(step),
        "seconds": round(session.seconds, 3),
    }


class StepWindow:
    """Means over the steps since the last row of the log."""

    def __init__(self, session: Session, live: Live) -> None:
        self._session = session
        pointer = session.folder.agreed_pointer(session.ranks)
        resumed = pointer is not None and pointer.step == live.step
        self._steps = (
            [Step(row[0], row[1], row[2:]) for row in pointer.window]
            if pointer is not None and resumed
            else []
        )
        self._began = time.monotonic()

    def rows(self) -> list[tuple[float, ...]]:
        """Loss, gradient norm and loads of experts of the steps that are in no row yet: a resumed run writes the row that this one would have."""
        return [(step.loss, step.gradient_norm, *step.routing) for step in self._steps]

    def add(self, step: Step) -> None:
        """Count one step more."""
        self._steps.append(step)

    def leave_out(self, seconds: float) -> None:
        """Do not count time that went into something else than steps."""
        self._began += seconds

    def close(self, live: Live, rate: float) -> dict[str, Any]:
        """The row of the steps until here; the next one begins after them."""
        count, now = len(self._steps), time.monotonic()
        row = {
            **log_row(self._session, "train", live),
            "loss": sum(step.loss for step in self._steps) / count,
            "lr": rate,
            "grad_norm": sum(step.gradient_norm for step in self._steps) / count,
            "tokens_per_second": round(
                count * live.course.own.tokens_per_step / max(1e-9, now - self._began), 1
            ),
        }
        for place, name in enumerate(ROUTING if self._steps[0].routing else ()):
            row[name] = sum(step.routing[place] for step in self._steps) / count
        self._steps, self._began = [], now
        return row


def write_stage(session: Session, live: Live) -> None:
    """The row that opens a stage: what its model is."""
    plan = session.plans[live.stage]
    row = {**log_row(session, "stage", live), "parameters": plan.cost.parameters, "stage_tokens": plan.tokens}
    flops = {"stage_flops": plan.flops, "probe_flops": plan.probe_flops}
    if plan.taught_steps:
        flops["taught_tokens"] = plan.taught_steps * live.course.own.tokens_per_step
    place = {"peak": plan.peak, "position": live.course.now.position, "schedule_tokens": live.course.total()}
    own = live.course.own
    reading: dict[str, Any] = {"sequences": own.batch.sequences}
    reading["precision"] = "bf16" if session.device_at(live.stage).bf16 else "float32"
    if (numbers := session.run.stages[live.stage].optimizer) is not None:
        reading["optimizer"] = numbers.model_dump(mode="json")
    if own.data.images is None:
        asked = session.run.data.sequence_length
        reading |= {"sequence_length": own.data.sequence_length, "validation_length": asked}
    session.write({**row, **flops, **place, **reading, "config": plan.config})


def write_machine(session: Session) -> None:
    """What trains from here on, unless the log's last machine is the same: a run may be continued on another one."""
    if not session.ranks.leads:
        return
    facts = {**machine(), "device": session.device.describe()}
    known = [row for row in read_metrics(session.folder.metrics) if row["kind"] == "machine"]
    if not known or any(known[-1].get(name) != value for name, value in facts.items() if name != "command"):
        session.write({"kind": "machine", **facts})
