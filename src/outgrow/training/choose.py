"""Choosing an operator by trying several, after LAG (arXiv 2406.02469): the loss right after growth says little, the loss
after some steps more.

    for every candidate: grow the same state, train k steps on the same batches, validate;  keep the lowest

The run then goes on from the candidate grown anew, without the steps of the probe. Everything is a function of the state,
the configuration and the step, so a probe that was killed gives the same again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from outgrow.engine.step import evaluation_loss, optimizer_step
from outgrow.errors import TrainingError
from outgrow.run.grow_config import GrowConfig
from outgrow.state.training_state import TrainingState
from outgrow.training.course import Course
from outgrow.training.log_rows import row_at
from outgrow.training.session import Session, batch_at, load_state
from outgrow.training.stage_plans import candidates, grow_state

WARNING = (
    "short probes can mislead (arXiv 2604.04281): the operator that leads after a few steps need not win"
)


@dataclass(frozen=True)
class ProbeTrial:
    """One candidate: its operators, its training loss step by step, and validation loss before and after (inf: diverged)."""

    width: str
    depth: str
    losses: tuple[float, ...]
    loss_after_growth: float
    loss_at_end: float

    @property
    def record(self) -> dict[str, Any]:
        """Plain data; what is not finite is null."""
        ends = {"loss_after_growth": self.loss_after_growth, "loss_at_end": self.loss_at_end}
        finite = {name: value if math.isfinite(value) else None for name, value in ends.items()}
        return {"width": self.width, "depth": self.depth, "losses": list(self.losses), **finite}


def choose_operator(
    session: Session,
    state: TrainingState,
    growth: GrowConfig,
    course: Course,
    step: int,
) -> tuple[GrowConfig, tuple[ProbeTrial, ...]]:
    """The growth with the operators of the best trial, and all trials, best first.

    `course` has entered the stage that begins with the growth. Raises TrainingError where every candidate diverges.
    """
    trials = [(_try(session, state, one, course, step), one) for one in candidates(growth)]
    trials.sort(key=lambda pair: pair[0].loss_at_end)  # stable: the first of equals
    best, chosen = trials[0]
    if not math.isfinite(best.loss_at_end):
        raise TrainingError(
            f"all {len(trials)} operators of the probe diverged (stage {session.run.stages[course.stage].name})",
            fix="lower the learning rate or raise reentry.rewarm_tokens",
        )
    return chosen, tuple(trial for trial, _ in trials)


def grow_best(
    session: Session,
    state: TrainingState,
    growth: GrowConfig,
    course: Course,
    step: int,
) -> TrainingState:
    """The state grown by the operators of the best trial; trials go into the log and into the growth's lineage entry."""
    session.progress.say(f"probe: {WARNING}")
    chosen, trials = choose_operator(session, state, growth, course, step)
    session.progress.say(f"probe: chosen: {trials[0].width} + {trials[0].depth}")
    probe = {"trials": [trial.record for trial in trials], "flops": session.plans[course.stage].probe_flops}
    session.write({**row_at(session, "probe", course, step), "trials": probe["trials"], "warning": WARNING})
    grown = grow_state(state, chosen)
    return replace(grown, lineage=grown.lineage.with_last(grown.lineage.last.saying(probe=probe)))


def _try(
    session: Session,
    state: TrainingState,
    growth: GrowConfig,
    course: Course,
    step: int,
) -> ProbeTrial:
    run, losses = session.run, list[float]()
    device = session.device_at(course.stage)
    assert growth.probe is not None
    grown = grow_state(state, growth)
    live = load_state(session, grown, course, step)
    width = str(grown.lineage.last.operators["width"])  # by name, also where none was given
    start = end = evaluation_loss(live.model, session.validation, device)
    for place in range(step, step + growth.probe.steps):
        done = optimizer_step(
            live.model,
            live.optimizer,
            batch_at(session, course, place),
            learning_rate=course.learning_rate(place),
            micro_batch=course.own.batch.at_once,
            clip=course.own.optimizer.gradient_clip,
            device=device,
            seed=(run.seed, run.data.skip_steps + place),
            balancing=run.balancing,
            bias_rate=run.bias_rate,
        )
        if not (math.isfinite(done.loss) and math.isfinite(done.gradient_norm)):
            end = math.inf
            break
        losses.append(done.loss)
    if math.isfinite(end):
        end = evaluation_loss(live.model, session.validation, device)
    end = end if math.isfinite(end) else math.inf
    session.progress.say(f"probe: {width} + {growth.depth}: validation loss {start:.4f}, then {end:.4f}")
    return ProbeTrial(width, growth.depth, tuple(losses), start, end)
