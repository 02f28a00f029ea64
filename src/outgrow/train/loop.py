"""A staged run: train, save, grow, train on. Killed at any moment and started again, it gives the same weights.

step s uses batch(seed, s), randomness (seed, s) and the learning rate at its middle token: all pure functions of s,
so weights, moments and s are the whole state, and a checkpoint plus `latest.json` is enough to continue.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from outgrow.errors import ConfigError
from outgrow.schedule import learning_rate
from outgrow.state import TrainingState
from outgrow.train.choose import grow_best
from outgrow.train.config import RunConfig
from outgrow.train.data import load_data
from outgrow.train.engine import (
    Step,
    TrainingError,
    be_repeatable,
    build_model,
    build_optimizer,
    evaluate,
    optimizer_step,
)
from outgrow.train.folder import Pointer, opened_run, prune
from outgrow.train.preflight import preflight
from outgrow.train.progress import make_progress
from outgrow.train.result import RunResult, machine, read_result
from outgrow.train.session import Live, Session, checkpoint_path, load, log_row, open_session, point, save
from outgrow.train.stages import grow_state


def train(run: RunConfig, *, progress: bool = True) -> RunResult:
    """Do a run, or what is left of it.

    Writes `run.output` (see `train/folder.py`). Raises `ConfigError` before any work for a mistake in the
    configuration, and `TrainingError` where the loss is not a finite number.

    >>> result = train(load_run("examples/quickstart.yaml"))  # doctest: +SKIP
    """
    be_repeatable()
    preflight(run)
    with opened_run(run) as folder, make_progress(progress) as view:
        pointer = folder.pointer()
        if pointer is not None and pointer.finished:
            view.say(f"{folder.root}: this run is finished, nothing to do")
            return replace(read_result(folder), already_finished=True)
        view.say("data: reading, tokenizing (cached for the next time)")
        data = load_data(run.data, folder.tokenizer, start=run.stages[0].start)
        view.say(
            f"data: {data.description}: {len(data.train.tokens):,} tokens, {len(data.validation.tokens):,} held out"
        )
        if pointer is not None and pointer.data != data.record:
            raise ConfigError(
                "the data is not what this run began with", got=data.record, expected=pointer.data
            )
        session = open_session(run, folder, data, view, pointer)
        try:
            _work(session, pointer)
        finally:
            session.log.close()
            session.mirror.close()
        return read_result(folder)


def _work(session: Session, pointer: Pointer | None) -> None:
    """All stages from where the run stands."""
    live = _begin(session) if pointer is None else _resume(session, pointer)
    while True:
        live = _train_stage(session, live)
        if live.stage == len(session.run.stages) - 1:
            return
        live = _next_stage(session, live)


def _begin(session: Session) -> Live:
    """The first stage's start: fresh weights, or a checkpoint and perhaps a growth."""
    run, stage = session.run, session.run.stages[0]
    _say_versions(session)
    if stage.start is None:
        torch.manual_seed(run.seed)
        model = build_model(session.plans[0].config).to(session.device.name)
        live = Live(model, build_optimizer(model, run.optimizer), 0, 0, ())
        _write_stage(session, live)
        return live
    start = Path(stage.start).expanduser()
    if stage.grow is None:
        live = load(session, start, 0, 0)
        _write_stage(session, live)
        return live
    before = evaluate(load(session, start, 0, 0).model, session.validation, session.device)
    return _grow(session, start, 0, 0, before)


def _resume(session: Session, pointer: Pointer) -> Live:
    session.progress.say(f"continuing after step {pointer.step} from {pointer.checkpoint}")
    return load(session, session.folder.root / pointer.checkpoint, pointer.stage, pointer.step)


def _next_stage(session: Session, live: Live) -> Live:
    """From the saved end of a stage to the next one's start."""
    end = checkpoint_path(session, live.stage, live.step)
    index = live.stage + 1
    if session.run.stages[index].grow is None:
        live = replace(live, stage=index)
        _write_stage(session, live)
        return live
    before = evaluate(live.model, session.validation, session.device)
    return _grow(session, end, index, live.step, before)


def _grow(session: Session, small: Path, index: int, step: int, loss_before: float) -> Live:
    """Grow a saved state from file to file, go on from the written one: a run that was killed here does the same again."""
    growth = session.run.stages[index].grow
    assert growth is not None
    began = time.monotonic()
    target = session.folder.stage(session.run, index) / "grown"
    target.parent.mkdir(parents=True, exist_ok=True)
    state = TrainingState.from_pretrained(small)
    rate = partial(_learning_rate, session.run, index)
    grown = (
        grow_state(state, growth)
        if growth.probe is None
        else grow_best(session, state, growth, index, step, rate)
    )
    grown.save_pretrained(target, overwrite=True)
    live = load(session, target, index, step)
    seconds = time.monotonic() - began
    loss_after = evaluate(live.model, session.validation, session.device)
    row = log_row(session, "growth", live)
    session.write(
        {**row, "loss_before": loss_before, "loss_after": loss_after, "growth_seconds": round(seconds, 3)}
    )
    _write_stage(session, live)
    session.progress.say(
        f"grown in {seconds:.1f} s to {session.plans[index].cost.parameters:,} parameters: "
        f"validation loss {loss_before:.4f} before, {loss_after:.4f} after"
    )
    point(session, live, target)
    return live


def _train_stage(session: Session, live: Live) -> Live:
    """Steps until the stage's tokens are used; ends with a validation, a checkpoint and a pointer to it."""
    run, index = session.run, live.stage
    first, last = run.first_step(index), run.first_step(index + 1)
    session.progress.stage(run.stages[index].name, live.step - first, last - first)
    window = _Window(session)
    while live.step < last:
        rate = _learning_rate(run, index, live.step)
        done = _one_step(session, live, rate)
        live = replace(live, step=live.step + 1)
        window.add(done)
        keep = (
            run.checkpoint.every_steps is not None and (live.step - first) % run.checkpoint.every_steps == 0
        )
        validate = live.step == last or _evaluation_is_due(run, live.step)
        if live.step % run.log_every_steps == 0 or keep or live.step == last:
            row = window.close(live, rate)
            session.write(row)
            session.progress.step(live.step - first, row)
        began = time.monotonic()
        if validate:
            _validate(session, live)
        if keep or live.step == last:
            save(session, live)
            prune(session.folder.stage(run, index), run.checkpoint.keep)
        window.leave_out(time.monotonic() - began)
    return live


def _one_step(session: Session, live: Live, rate: float) -> Step:
    run = session.run
    step = optimizer_step(
        live.model,
        live.optimizer,
        session.data.batch(run.seed, live.step, run.batch.sequences),
        learning_rate=rate,
        micro_batch=run.batch.micro_batch or run.batch.sequences,
        clip=run.optimizer.gradient_clip,
        device=session.device,
        seed=(run.seed, live.step),
    )
    if not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm)):
        pointer = session.folder.pointer()
        raise TrainingError(
            f"training diverged at step {live.step + 1} (stage {run.stages[live.stage].name})",
            got=f"loss {step.loss}, gradient norm {step.gradient_norm}",
            expected="finite numbers",
            fix="lower the learning rate or rewarm_tokens up; last good checkpoint: "
            + (str(session.folder.root / pointer.checkpoint) if pointer else "none yet"),
        )
    return step


def _learning_rate(run: RunConfig, index: int, step: int) -> float:
    """The rate of a step: the schedule at the step's middle token, so neither end of a ramp is a step of nothing."""
    stage = run.stages[index]
    return learning_rate(
        run.schedule,
        stage.learning_rate or run.optimizer.learning_rate,
        (step + 0.5) * run.tokens_per_step,
        run.total_tokens,
        stage_start=run.first_step(index) * run.tokens_per_step,
        rewarm_tokens=stage.rewarm_tokens,
    )


def _evaluation_is_due(run: RunConfig, step: int) -> bool:
    every = run.evaluation.every_tokens
    return (
        every is not None and step * run.tokens_per_step // every > (step - 1) * run.tokens_per_step // every
    )


def _validate(session: Session, live: Live) -> None:
    loss = evaluate(live.model, session.validation, session.device)
    session.write({**log_row(session, "validation", live), "val_loss": loss})


class _Window:
    """Means over the steps since the last row of the log."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._steps: list[Step] = []
        self._began = time.monotonic()

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def leave_out(self, seconds: float) -> None:
        """Do not count time that went into something else than steps."""
        self._began += seconds

    def close(self, live: Live, rate: float) -> dict[str, Any]:
        count, now = len(self._steps), time.monotonic()
        row = {
            **log_row(self._session, "train", live),
            "loss": sum(step.loss for step in self._steps) / count,
            "lr": rate,
            "grad_norm": sum(step.gradient_norm for step in self._steps) / count,
            "tokens_per_second": round(
                count * self._session.run.tokens_per_step / max(1e-9, now - self._began), 1
            ),
        }
        self._steps, self._began = [], now
        return row


def _write_stage(session: Session, live: Live) -> None:
    """The row that opens a stage: what its model is."""
    plan = session.plans[live.stage]
    row = {**log_row(session, "stage", live), "parameters": plan.cost.parameters, "stage_tokens": plan.tokens}
    flops = {"stage_flops": plan.flops, "probe_flops": plan.probe_flops}
    session.write({**row, **flops, "config": plan.config})


def _say_versions(session: Session) -> None:
    session.write({"kind": "machine", **machine(), "device": session.device.describe()})
