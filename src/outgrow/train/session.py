"""One process's work on a run: what stays the same (`Session`), what moves (`Live`), and how `Live` is kept on disk.

saved state + pointer {checkpoint, step, metrics_bytes}  =  everything that the next process needs
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.state import TrainingState
from outgrow.train.config import RunConfig
from outgrow.train.data import TrainingData
from outgrow.train.engine import Device, build_model, build_optimizer, choose_device
from outgrow.train.folder import MetricsLog, Pointer, RunFolder
from outgrow.train.progress import Progress
from outgrow.train.stages import StagePlan, flops_before, plan_stages
from outgrow.train.tensorboard import Mirror, make_mirror


@dataclass(frozen=True)
class Session:
    """What stays the same during one process's work on a run."""

    run: RunConfig
    plans: Sequence[StagePlan]
    folder: RunFolder
    data: TrainingData
    validation: list[tuple[Tensor, Tensor]]
    device: Device
    log: MetricsLog
    mirror: Mirror
    progress: Progress
    began: float  # time.monotonic() less the seconds of earlier processes

    @property
    def seconds(self) -> float:
        """Of work on this run, earlier processes included."""
        return time.monotonic() - self.began

    def write(self, row: dict[str, Any]) -> None:
        """One row for metrics.jsonl and its mirror."""
        self.log.write(row)
        self.mirror.write(row)


@dataclass(frozen=True)
class Live:
    """A model in the middle of its training; `step` counts the whole run."""

    model: nn.Module
    optimizer: torch.optim.AdamW
    stage: int
    step: int
    lineage: tuple[dict[str, Any], ...]


def open_session(
    run: RunConfig, folder: RunFolder, data: TrainingData, view: Progress, pointer: Pointer | None
) -> Session:
    """Everything fixed for this process: the plan with the real vocabulary, the log cut to the pointer, the clock."""
    device = choose_device(run)
    plans = plan_stages(run, vocab_size=data.tokenizer.vocab_size, separator=data.tokenizer.separator)
    micro_batch = run.batch.micro_batch or run.batch.sequences
    return Session(
        run=run,
        plans=plans,
        folder=folder,
        data=data,
        validation=data.validation_batches(run.evaluation.sequences, micro_batch),
        device=device,
        log=MetricsLog(folder.metrics, pointer.metrics_bytes if pointer else 0),
        mirror=make_mirror(run.tensorboard, folder.root, pointer.step if pointer else 0),
        progress=view,
        began=time.monotonic() - (pointer.seconds if pointer else 0.0),
    )


def log_row(session: Session, kind: str, live: Live) -> dict[str, Any]:
    """What every row has: where the run stands, counted over all stages."""
    return row_at(session, kind, live.stage, live.step)


def row_at(session: Session, kind: str, stage: int, step: int) -> dict[str, Any]:
    """The same for a place in the run at which no model lives."""
    run, plan = session.run, session.plans[stage]
    in_stage = step - run.first_step(stage)
    return {
        "kind": kind,
        "stage": run.stages[stage].name,
        "step": step,
        "tokens": step * run.tokens_per_step,
        "flops": flops_before(session.plans, stage) + plan.flops * in_stage / plan.steps,
        "seconds": round(session.seconds, 3),
    }


def checkpoint_path(session: Session, index: int, step: int) -> Path:
    """Where the state after `step` belongs; the last one is `final`."""
    if step == session.run.total_steps:
        return session.folder.root / "final"
    return session.folder.stage(session.run, index) / f"step-{step:08d}"


def save(session: Session, live: Live) -> None:
    """A training state, then the pointer to it: whichever moment a kill hits, one whole state is pointed to."""
    target = checkpoint_path(session, live.stage, live.step)
    target.parent.mkdir(parents=True, exist_ok=True)
    run = session.run
    state = TrainingState.from_model(
        live.model,
        live.optimizer,
        records={
            "schedule": {
                **run.schedule.model_dump(mode="json"),
                "peak": run.stages[live.stage].learning_rate or run.optimizer.learning_rate,
                "tokens": live.step * run.tokens_per_step,
                "total_tokens": run.total_tokens,
            },
            "data": {**session.data.record, "seed": run.seed, "sequences": live.step * run.batch.sequences},
            "rng": {
                "rule": "torch.manual_seed per step from (seed, step)",
                "seed": run.seed,
                "step": live.step,
            },
            "run": {"stage": live.stage, "step": live.step, "configuration": run.resolved()},
        },
        assets=session.data.tokenizer.files,
    )
    replace(state, lineage=live.lineage).save_pretrained(target, overwrite=True)
    point(session, live, target)


def point(session: Session, live: Live, checkpoint: Path) -> None:
    """Continue from this checkpoint after the next start."""
    session.folder.set_pointer(
        Pointer(
            checkpoint=checkpoint.relative_to(session.folder.root).as_posix(),
            stage=live.stage,
            step=live.step,
            flops=log_row(session, "", live)["flops"],
            seconds=round(session.seconds, 3),
            metrics_bytes=session.log.sync(),
            finished=live.step == session.run.total_steps,
            data=session.data.record,
        )
    )


def load(session: Session, path: Path, index: int, step: int) -> Live:
    """A model and optimizer that continue a saved state."""
    return load_state(session, TrainingState.from_pretrained(path), index, step)


def load_state(session: Session, state: TrainingState, index: int, step: int) -> Live:
    """A model and optimizer that continue a state."""
    model = build_model(state.config).to(session.device.name)
    optimizer = build_optimizer(model, session.run.optimizer)
    state.load_into(model, optimizer if state.optimizer is not None else None)
    options = session.run.optimizer  # this run's own, whatever the checkpoint was trained with
    for group in optimizer.param_groups:
        decay = options.weight_decay if group["params"][0].ndim >= 2 else 0.0
        group.update(betas=options.betas, eps=options.eps, weight_decay=decay)
    return Live(model, optimizer, index, step, state.lineage)
