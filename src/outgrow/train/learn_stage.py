"""A growth by an operator that is fitted where the stage begins, on the batches that the run reads next.

    batch of step k of the fit = batch of step s + k of the run

Everything is a function of the saved state, the configuration and the step, so a fit that was killed gives the same again.
"""

from __future__ import annotations

from dataclasses import replace

from outgrow.api import apply, plan_fitted
from outgrow.architectures import load
from outgrow.proof import Batch
from outgrow.state import TrainingState
from outgrow.store.operator_file import save_operator
from outgrow.train.config import GrowConfig
from outgrow.train.course import Course
from outgrow.train.learn import learn
from outgrow.train.learn_data import forward_batch
from outgrow.train.learn_plan import items, learn_options
from outgrow.train.session import Session, row_at


def grow_learned(
    session: Session,
    state: TrainingState,
    growth: GrowConfig,
    course: Course,
    step: int,
) -> TrainingState:
    """The state grown by a newly fitted operator, which is kept in the stage's folder.

    `course` has entered the stage that begins with the growth. The fit goes into the log and into the lineage.
    """
    run, options = session.run, learn_options(growth)
    objective = load(str(state.config["model_type"])).objective

    def batch(place: int) -> Batch:
        return forward_batch(
            objective, session.data.batch(run.seed, run.data.skip_steps + step + place, items(run))
        )

    fitted, fit = learn(
        state,
        growth.to,
        batch,
        [forward_batch(objective, one) for one in session.validation],
        options,
        data={**session.data.record, "seed": run.seed, "step": step, "sequences": items(run)},
        device=session.device,
        progress=session.progress,
    )
    flops = session.plans[course.stage].probe_flops
    losses = {"loss_small": fit.loss_small, "loss_start": fit.loss_start, "loss_end": fit.loss_end}
    session.write(
        {
            **row_at(session, "fit", course, step),
            "method": options.method,
            "start": options.start,
            **losses,
            "losses": list(fit.losses),
            "fit_flops": flops,
            "fit_seconds": round(fit.seconds, 3),
        }
    )
    session.progress.say(
        f"{options.method} fitted from {options.start} in {fit.seconds:.1f} s: held-out loss {fit.loss_small:.4f} small, "
        f"{fit.loss_start:.4f} at the start, {fit.loss_end:.4f} after {options.fit.steps} steps"
    )
    # The wall clock stays out of what is saved: a run that was killed must end in the same bits.
    record = {**{key: value for key, value in fitted.record.items() if key != "seconds"}, "flops": flops}
    folder = session.folder.stage(run, course.stage) / "operator"
    saved = save_operator(replace(fitted, record=record), folder, overwrite=True)
    return apply(plan_fitted(state.config, saved, moments=growth.moments), state, operator=saved)
