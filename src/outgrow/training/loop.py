"""A staged run: train, save, grow, train on. Killed at any moment and started again, it gives the same weights.

step s uses the tokens that follow those before it, randomness (seed, s) and the learning rate at its middle token: all pure
functions of s and of where the stages began, so weights, moments and these are the whole state, and a checkpoint plus
`latest.json` is enough to continue.
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from outgrow.data.opening import open_data
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.progress import make_progress
from outgrow.engine.step import (
    Step,
    be_repeatable,
    build_for_training,
    evaluation_loss,
    measure,
    optimizer_step,
)
from outgrow.engine.stopping import noted
from outgrow.engine.teaching import Teacher
from outgrow.engine.treatment import Treatment, make_treatment
from outgrow.errors import ConfigError, TrainingError
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.run.config import RunConfig
from outgrow.state.training_state import TrainingState
from outgrow.store.lineage import Lineage
from outgrow.training.choose import grow_best
from outgrow.training.course import Course
from outgrow.training.folder import Pointer, opened_run
from outgrow.training.learn_stage import grow_learned
from outgrow.training.log_rows import StepWindow, log_row, write_machine, write_stage
from outgrow.training.own_state import check_data_of_run, check_finished, check_own
from outgrow.training.preflight import preflight
from outgrow.training.result import RunResult, read_result
from outgrow.training.session import (
    Live,
    Session,
    batch_at,
    checkpoint_path,
    load_checkpoint,
    load_state,
    open_saved_state,
    open_session,
    point,
    publish_saves,
    save_checkpoint,
    write_final,
)
from outgrow.training.stage_plans import StagePlan, grow_state
from outgrow.training.teachers import open_teacher
from outgrow.training.watch import Watch


def train_run(
    run: RunConfig,
    *,
    progress: bool = True,
    before: Callable[[RunConfig, Sequence[StagePlan], Path], None] | None = None,
    ranks: Ranks = ALONE,
) -> RunResult:
    """Do a run, or what is left of it; `before` is called with the plan and the folder before the first step, behind all checks.

    With several `ranks` every process calls this with the same run; rank 0 alone shows progress and calls `before`. Writes `run.output` (see `training/folder.py`). Raises `ConfigError` before any work for a mistake in the
    configuration, and `TrainingError` where the loss is not a finite number.

    >>> result = train_run(load_run("examples/quickstart.yaml"))  # doctest: +SKIP
    """
    be_repeatable()
    found = ranks.together(lambda: preflight(run, ranks, show=progress and ranks.leads))
    ranks.agree("the run's configuration", run.resolved())
    with opened_run(run, ranks) as folder, make_progress(progress and ranks.leads) as view:
        pointer = folder.agreed_pointer(ranks)
        if pointer is not None and pointer.finished:
            ranks.first(lambda: check_finished(run, folder.root / pointer.checkpoint))
            view.say(f"{folder.root}: this run is finished, nothing to do")
            return replace(read_result(folder), already_finished=True)
        for warning in found.warnings:
            view.say(f"warning: {warning}")
        view.say("data: reading")
        data = ranks.in_turn(lambda: open_data(run, folder.tokenizer))
        view.say(f"data: {data.summary}")
        ranks.agree("the data", data.record)
        if pointer is not None:
            check_data_of_run(pointer.data, data.record)
        session = open_session(run, found, folder, data, view, pointer, ranks)

        def begins() -> None:
            if before is not None and ranks.leads:
                before(run, session.plans, folder.root)
            write_machine(session)

        try:
            _work(session, pointer, begins)
        finally:
            session.close()
        return ranks.in_turn(lambda: read_result(folder))


def _work(session: Session, pointer: Pointer | None, begins: Callable[[], None]) -> None:
    """All stages from where the run stands; `begins` is called once, when nothing is left to check."""
    live = _begin(session, begins) if pointer is None else _resume(session, pointer, begins)
    while True:
        live = _train_stage(session, live)
        if live.stage == len(session.run.stages) - 1:
            write_final(session, live)
            return
        end, loss, course, step = checkpoint_path(session, live), *_leave(session, live)
        if _goes_on_as_it_is(session.run, course.stage):
            live = replace(live, course=course)
            write_stage(session, live)
            continue
        del live  # the small model's memory is given back before the large one takes its own
        gc.collect()
        stage = session.run.stages[course.stage]
        if stage.grow is not None:
            live = _grow(session, open_saved_state(session, end), course, step, loss)
            continue
        live = (
            _fresh(session, course, step)
            if stage.distil is not None
            else load_state(session, open_saved_state(session, end), course, step)
        )
        write_stage(session, live)


def _goes_on_as_it_is(run: RunConfig, stage: int) -> bool:
    """Whether a stage needs no other model and no other optimizer than the one before it."""
    before, own = run.at(stage - 1), run.at(stage)
    same = (before.precision, before.optimizer) == (own.precision, own.optimizer)
    return same and run.stages[stage].grow is None and run.stages[stage].distil is None


def _begin(session: Session, begins: Callable[[], None]) -> Live:
    """The first stage's start: fresh weights, or a checkpoint and perhaps a growth."""
    run, stage = session.run, session.run.stages[0]
    course = Course(run, session.plans).enter(0)
    begins()
    if session.start is None or stage.distil is not None:
        live = _fresh(session, course, 0)
        write_stage(session, live)
        return live
    live = load_state(session, session.start, course, 0)
    if stage.grow is None:
        write_stage(session, live)
        return live
    before = evaluation_loss(live.model, session.validation, session.device_at(0))
    del live
    return _grow(session, session.start, course, 0, before)


def _fresh(session: Session, course: Course, step: int) -> Live:
    """A new model from the run's seed. Rank 0 draws its weights as a single process would, and all take their parts of them."""
    config = session.plans[course.stage].config

    def draw() -> nn.Module:
        torch.manual_seed(session.run.seed)
        return build_for_training(config)

    if session.ranks.alone:
        model = session.device_at(course.stage).place(draw())
        return Live(model, build_optimizer(model, course.own.optimizer), course, step, Lineage())
    drawn = session.folder.stage(session.run, course.stage) / "drawn"

    def keep() -> None:
        drawn.parent.mkdir(parents=True, exist_ok=True)
        TrainingState.from_model(draw()).save_pretrained(drawn, overwrite=True)

    session.ranks.first(keep)
    live = load_checkpoint(session, drawn, course, step)
    session.ranks.gather(None)  # all have read it
    session.ranks.first(lambda: shutil.rmtree(drawn))
    return live


def _resume(session: Session, pointer: Pointer, begins: Callable[[], None]) -> Live:
    course = Course(session.run, session.plans, pointer.stages)
    if len(pointer.stages) > len(session.plans) or pointer.step < course.now.first:
        raise ConfigError(
            f"{session.folder.root / 'latest.json'} is damaged: it does not fit the run",
            got=f"{len(pointer.stages)} stages, step {pointer.step}",
            fix="choose another output, or delete the run",
        )
    path = session.folder.root / pointer.checkpoint
    state = open_saved_state(session, path)
    check_own(session.run, path, state, session.plans[course.stage].config, pointer.step)
    begins()
    session.progress.say(f"continuing after step {pointer.step} from {pointer.checkpoint}")
    return load_state(session, state, course, pointer.step)


def _leave(session: Session, live: Live) -> tuple[float, Course, int]:
    """The validation loss at a stage's end, the course that enters the next stage there, and the step."""
    loss = evaluation_loss(live.model, session.validation, session.device_at(live.stage))
    return loss, live.course.enter(live.step, loss), live.step


def _grow(session: Session, state: TrainingState, course: Course, step: int, loss_before: float) -> Live:
    """Grow a saved state and go on from it: a run that was killed here does the same again.

    One process writes the grown state and points to it. Several fill their shards straight from the growth of the small one, and
    point to that until their first save.
    """
    growth = session.run.stages[course.stage].grow
    assert growth is not None
    began = time.monotonic()
    if growth.learn is not None:
        grown = grow_learned(session, state, growth, course, step)
    elif growth.probe is not None:
        grown = grow_best(session, state, growth, course, step)
    else:
        grown = grow_state(state, growth)
    target = session.folder.stage(session.run, course.stage) / "grown"
    if session.ranks.alone:
        target.parent.mkdir(parents=True, exist_ok=True)
        grown.save_pretrained(target, overwrite=True)
        live = load_checkpoint(session, target, course, step)
    else:
        live = load_state(session, grown, course, step)
    seconds = time.monotonic() - began
    treatment = make_treatment(session.run.stages[live.stage], session.plans[live.stage].growth, live.model)
    with treatment.during(0):
        loss_after = evaluation_loss(live.model, session.validation, session.device_at(live.stage))
    row = log_row(session, "growth", live)
    session.write(
        {**row, "loss_before": loss_before, "loss_after": loss_after, "growth_seconds": round(seconds, 3)}
    )
    write_stage(session, live)
    session.progress.say(
        f"grown in {seconds:.1f} s to {session.plans[course.stage].cost.parameters:,} parameters: "
        f"validation loss {loss_before:.4f} before, {loss_after:.4f} after; "
        f"on at {course.now.position:,} tokens of the schedule"
    )
    if session.ranks.alone:
        point(session, live, target)
    return live


def _train_stage(session: Session, live: Live) -> Live:
    """Steps until the stage's tokens are used or its trigger fires; ends with a validation, a checkpoint and a pointer to it.

    Where the process is asked to stop, it ends with a checkpoint after the step that was under way.
    """
    run, course = session.run, live.course
    first, last = course.now.first, course.last_step
    session.progress.stage(run.stages[live.stage].name, live.step - first, last - first)
    if session.device.compiled:
        session.progress.say("compiling the layers: the first step takes a minute or so longer")
    window, watch = StepWindow(session, live), Watch(session, live)
    treatment = make_treatment(run.stages[live.stage], session.plans[live.stage].growth, live.model)
    ended, stop = course.now.end is not None, False
    teacher = None if ended else open_teacher(session, live)
    with noted() as request:
        while not (ended or stop):
            rate = course.learning_rate(live.step)
            done = _one_step(session, live, rate, treatment, teacher)
            live = replace(live, step=live.step + 1)
            publish_saves(session, wait=False)
            window.add(done)
            keep = (
                run.checkpoint.every_steps is not None
                and (live.step - first) % run.checkpoint.every_steps == 0
            )
            ended = live.step == last
            if live.step % run.log_every_steps == 0 or keep or ended:
                row = window.close(live, rate)
                session.write(row)
                session.progress.step(live.step - first, row)
                ended = watch.ends(live, row) or ended
            if ended:
                live = replace(live, course=course.ended(live.step))
            began = time.monotonic()
            if ended or _evaluation_is_due(course, live.step):
                with treatment.during(course.stage_tokens(live.step)):
                    _validate(session, live)
            request.number = session.ranks.any_of(request.number)
            stop = request.number is not None
            if keep or ended or stop:
                save_checkpoint(session, live, window.rows())
            window.leave_out(time.monotonic() - began)
        publish_saves(session, wait=True)
        if stop:
            session.progress.say(
                f"{request.name}: saved after step {live.step}; start the same command again to go on"
            )
    return live


def _one_step(
    session: Session, live: Live, rate: float, treatment: Treatment, teacher: Teacher | None
) -> Step:
    run, own = session.run, live.course.own
    tokens = live.course.stage_tokens(live.step + 0.5)
    place = run.data.skip_steps + live.step
    with treatment.during(tokens):
        step = optimizer_step(
            live.model,
            live.optimizer,
            batch_at(session, live.course, live.step),
            learning_rate=rate,
            micro_batch=own.batch.at_once,
            clip=own.optimizer.gradient_clip,
            device=session.device.at(own),
            seed=(run.seed, place),
            update=treatment.update(tokens),
            balancing=run.balancing,
            bias_rate=run.bias_rate,
            lesson=None if teacher is None else teacher.lesson(tokens),
        )
    if not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm)):
        pointer = session.folder.pointer()
        raise TrainingError(
            f"training diverged at step {live.step + 1} (stage {run.stages[live.stage].name})",
            got=f"loss {step.loss}, gradient norm {step.gradient_norm}",
            expected="finite numbers",
            fix="lower the learning rate or raise reentry.rewarm_tokens; last good checkpoint: "
            + (str(session.folder.root / pointer.checkpoint) if pointer else "none yet"),
        )
    return step


def _evaluation_is_due(course: Course, step: int) -> bool:
    every = course.run.evaluation.every_tokens
    return every is not None and course.tokens(step) // every > course.tokens(step - 1) // every


def _validate(session: Session, live: Live) -> None:
    found = measure(live.model, session.validation, session.device_at(live.stage))
    metrics = {f"val_{name}": value for name, value in found.items()}
    session.write({**log_row(session, "validation", live), **metrics})
