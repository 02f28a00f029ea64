"""A growth by an operator that is fitted where the stage begins, on the batches that the run reads next.

    batch of step k of the fit = batch of step s + k of the run

Everything is a function of the saved state, the configuration and the step, so a fit that was killed gives the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outgrow.data.learn_data import forward_batch
from outgrow.learning.in_run import learn_options
from outgrow.learning.learn import fit_operator
from outgrow.learning.lesa import learn_lesa
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.models.architecture import architecture_of
from outgrow.models.forward import ModelInputs
from outgrow.parallel.ranks import ALONE
from outgrow.run.grow_config import GrowConfig
from outgrow.run.learn_options import LearnOptions, LesaOptions
from outgrow.state.asked import plan_fitted
from outgrow.state.growing import apply
from outgrow.state.operator_file import load_operator, save_operator
from outgrow.state.training_state import TrainingState
from outgrow.training.course import Course
from outgrow.training.log_rows import row_at
from outgrow.training.session import Session, batch_at


def grow_learned(
    session: Session,
    state: TrainingState,
    growth: GrowConfig,
    course: Course,
    step: int,
) -> TrainingState:
    """The state grown by a newly fitted operator, which is kept in the stage's folder: rank 0 fits, all grow by it.

    `course` has entered the stage that begins with the growth. The fit goes into the log and into the lineage.
    """
    folder = session.folder.stage(session.run, course.stage) / "operator"

    def fit() -> None:
        save_operator(_fitted(session, state, growth, course, step), folder, overwrite=True)

    session.ranks.first(fit)
    saved = load_operator(folder)
    return apply(plan_fitted(state.config, saved, moments=growth.moments), state, operator=saved)


def _fitted(
    session: Session, state: TrainingState, growth: GrowConfig, course: Course, step: int
) -> FittedOperator:
    """The operator, with a row in the log; in this process alone."""
    plan = session.plans[course.stage]
    options = learn_options(growth)
    if isinstance(options, LesaOptions):
        fitted, found = learn_lesa(state, growth.to, options)
        told: dict[str, Any] = {"method": "lesa", "error": found.error, "error_of_mean": found.error_of_mean}
        session.progress.say(
            f"lesa: error {found.error:.4f}, of the neighbours' mean {found.error_of_mean:.4f}"
        )
    else:
        fitted, told = _fit(session, state, growth.to, options, course, step)
    session.write({**row_at(session, "fit", course, step), **told, "fit_flops": plan.probe_flops})
    # The wall clock stays out of what is saved: a run that was killed must end in the same bits.
    record = {key: value for key, value in fitted.record.items() if key != "seconds"}
    return replace(fitted, record={**record, "flops": plan.probe_flops})


def _fit(
    session: Session,
    state: TrainingState,
    to: Mapping[str, Any],
    options: LearnOptions,
    course: Course,
    step: int,
) -> tuple[FittedOperator, dict[str, Any]]:
    """An operator fitted on the batches that follow, and what the log says of it."""
    run, at_once = session.run, course.own.batch.at_once
    objective = architecture_of(state.config).objective

    def batch(place: int) -> ModelInputs:
        items, targets = (part[:at_once] for part in batch_at(session, course, step + place))
        return forward_batch(objective, (items, targets))

    fitted, fit = fit_operator(
        state,
        to,
        batch,
        [forward_batch(objective, one) for one in session.validation],
        options,
        data={**session.data.record, "seed": run.seed, "step": step, "sequences": at_once},
        device=replace(session.device_at(course.stage), ranks=ALONE, sharding=None),
        progress=session.progress,
    )
    session.progress.say(
        f"{options.method} fitted from {options.start} in {fit.seconds:.1f} s: held-out loss {fit.loss_small:.4f} small, "
        f"{fit.loss_start:.4f} at the start, {fit.loss_end:.4f} after {options.steps} steps"
    )
    losses = {"loss_small": fit.loss_small, "loss_start": fit.loss_start, "loss_end": fit.loss_end}
    what = {"method": options.method, "start": options.start}
    return fitted, {
        **what,
        **losses,
        "losses": list(fit.losses),
        "fit_seconds": round(fit.seconds, 3),
    }
