"""One process's work on a run: what stays the same (`Session`), what moves (`Live`), and how `Live` is kept on disk.

saved state + pointer {checkpoint, step, metrics_bytes}  =  everything that the next process needs
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from outgrow.data.objectives import Batch
from outgrow.data.windows import Data, Stretch
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.progress import Progress
from outgrow.engine.step import Device, choose_device
from outgrow.files.locks import write_folder
from outgrow.parallel.ranks import Ranks
from outgrow.run.config import RunConfig
from outgrow.state.training_state import TrainingState
from outgrow.store.assets import GENERATION, MODEL, Asset, find_assets, is_asset
from outgrow.store.lineage import Lineage
from outgrow.training.course import Course
from outgrow.training.folder import MetricsLog, Pointer, RunFolder, prune, read_metrics
from outgrow.training.preflight import Preflight
from outgrow.training.saves import ShardedSaves
from outgrow.training.stage_plans import StagePlan, plan_stages
from outgrow.training.tensorboard import Mirror, make_mirror


@dataclass(frozen=True)
class Session:
    """What stays the same during one process's work on a run."""

    run: RunConfig
    plans: Sequence[StagePlan]
    start: TrainingState | None
    """The checkpoint that the run starts from, if it starts from one."""
    folder: RunFolder
    data: Data
    validation: list[Batch]
    device: Device
    """In the run's own precision: a stage may have another (`device_at`)."""
    log: MetricsLog | None
    """Of rank 0, which alone writes it."""
    mirror: Mirror
    progress: Progress
    began: float  # time.monotonic() less the seconds of earlier processes
    saves: ShardedSaves
    assets: tuple[Asset, ...] = ()
    """What every saved state carries: the tokenizer's files, and those of the model that the run begins with."""

    @property
    def ranks(self) -> Ranks:
        """The processes that work on this run."""
        return self.device.ranks

    @property
    def seconds(self) -> float:
        """Of work on this run, earlier processes included."""
        return time.monotonic() - self.began

    def write(self, row: dict[str, Any]) -> None:
        """One row for metrics.jsonl and its mirror, once for all ranks."""
        if self.log is not None:
            self.log.write(row)
            self.mirror.write(row)

    def device_at(self, stage: int) -> Device:
        """The device in the precision of a stage."""
        return self.device.at(self.run.at(stage))

    def close(self) -> None:
        """The log and its mirror, which are this process's own."""
        if self.log is not None:
            self.log.close()
        self.mirror.close()

    def own_rows(self, kind: str, stage: str) -> list[dict[str, Any]]:
        """Rows of one kind and stage that the log holds so far, on every rank."""
        wanted = {"kind": kind, "stage": stage}
        return self.ranks.first(
            lambda: [row for row in read_metrics(self.folder.metrics) if wanted.items() <= row.items()]
        )


@dataclass(frozen=True)
class Live:
    """A model in the middle of its training; `step` counts the whole run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    course: Course
    step: int
    lineage: Lineage

    @property
    def stage(self) -> int:
        """The newest stage."""
        return self.course.stage


def open_session(
    run: RunConfig,
    found: Preflight,
    folder: RunFolder,
    data: Data,
    view: Progress,
    pointer: Pointer | None,
    ranks: Ranks,
) -> Session:
    """Everything fixed for this process: the plan with the real vocabulary, the log cut to the pointer, the clock."""
    device = choose_device(run, ranks)
    plans = found.stages if data.needs == found.needs else plan_stages(run, data.needs, found.start)
    micro_batch = run.batch.at_once
    return Session(
        run=run,
        plans=plans,
        start=found.start,
        folder=folder,
        data=data,
        validation=data.validation_batches(run.evaluation.sequences, micro_batch),
        device=device,
        log=MetricsLog(folder.metrics, pointer.metrics_bytes if pointer else 0) if ranks.leads else None,
        mirror=make_mirror(run.tensorboard and ranks.leads, folder.root, pointer.step if pointer else 0),
        progress=view,
        began=time.monotonic() - (pointer.seconds if pointer else 0.0),
        saves=ShardedSaves(ranks, run.checkpoint.asynchronous),
        assets=(*data.files, *ranks.in_turn(lambda: carried(folder, found.start))),
    )


def carried(folder: RunFolder, start: TrainingState | None) -> tuple[Asset, ...]:
    """What the model that a run begins with brings, kept in the run: sampling, images, licence; no other tokenizer's ids."""
    if start is None:
        return ()
    kept = folder.carried

    def write(target: Path) -> None:
        for asset in start.assets:
            if is_asset(asset.name, MODEL):
                asset.write(target)

    if not kept.is_dir():
        write_folder(kept, write)
    same = _same_tokenizer(folder, start)
    return tuple(one for one in find_assets(kept, MODEL) if same or one.name != GENERATION)


def _same_tokenizer(folder: RunFolder, start: TrainingState) -> bool:
    """Whether the run's tokenizer is that of the model it begins with: else the ids of its generation config mean nothing."""
    own = folder.tokenizer / "tokenizer.json"
    first = next((one.path for one in start.assets if one.name == own.name), None)
    if first is None or not own.is_file():
        return True
    return own.read_bytes() == first.read_bytes()


def batch_at(session: Session, course: Course, step: int) -> Batch:
    """What a step of the newest stage trains on: the items that follow the tokens before it, cut to the stage's own length."""
    run, own = session.run, course.own
    first = (run.skipped_tokens + course.tokens(step)) // own.item_tokens
    return session.data.batch(
        run.seed,
        run.data.skip_steps + step,
        own.batch.sequences,
        stretch=Stretch(first, own.item_tokens),
    )


def checkpoint_path(session: Session, live: Live) -> Path:
    """Where this state belongs; the last one of a single process is `final`."""
    if live.course.finished and session.ranks.alone:
        return session.folder.root / "final"
    return session.folder.stage(session.run, live.stage) / _step_name(live.step)


def stage_end(session: Session, course: Course, stage: int) -> Path:
    """Where the state is kept that an earlier stage ended with."""
    return session.folder.stage(session.run, stage) / _step_name(course.begun[stage + 1].first)


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def save_checkpoint(session: Session, live: Live, window: Sequence[tuple[float, ...]] = ()) -> None:
    """A training state, then the pointer to it: whichever moment a kill hits, one whole state is pointed to.

    Several ranks write the state each its own part, asynchronously where the run says so: then the pointer follows when
    all parts are on the disk (`publish_saves`), and at the end of a stage this waits for it.
    """
    target, state = checkpoint_path(session, live), state_of(session, live)
    if session.ranks.alone:
        target.parent.mkdir(parents=True, exist_ok=True)
        state.save_pretrained(target, overwrite=True)
        point(session, live, target, window)
        prune(session.folder.stage(session.run, live.stage), session.run.checkpoint.keep)
        return
    pointer = pointer_to(session, live, target, window)
    publish_saves(session, wait=True)
    session.saves.begin(state, target, lambda: _publish(session, live.stage, pointer))


def publish_saves(session: Session, *, wait: bool) -> None:
    """Point to the state that is being written as soon as it is whole; `wait` until it is."""
    session.saves.publish(wait=wait)


def _publish(session: Session, stage: int, pointer: Pointer) -> None:
    session.folder.set_pointer(pointer)
    prune(session.folder.stage(session.run, stage), session.run.checkpoint.keep)


def state_of(session: Session, live: Live) -> TrainingState:
    """The live state with all that a run records beside it."""
    run, tokens = session.run, live.course.tokens(live.step)
    state = TrainingState.from_model(
        live.model,
        live.optimizer,
        records={
            "schedule": {
                **run.schedule.model_dump(mode="json"),
                "peak": session.plans[live.stage].peak,
                "tokens": live.course.position(live.step),
                "total_tokens": live.course.total(),
            },
            "data": {
                **session.data.record,
                "seed": run.seed,
                "sequences": tokens // run.item_tokens,
                "tokens": tokens,
            },
            "rng": {
                "rule": "torch.manual_seed per micro-batch from (seed, step, micro-batch)",
                "seed": run.seed,
                "step": live.step,
            },
            "run": {"stage": live.stage, "step": live.step, "configuration": run.resolved()},
        },
        assets=session.assets,
    )
    return replace(state, lineage=live.lineage)


def write_final(session: Session, live: Live) -> None:
    """`final`, where the last save was not there already: the last state as files that `from_pretrained` opens.

    Every rank writes its share of them.
    """
    ranks = session.ranks
    pointer = session.folder.agreed_pointer(ranks)
    if pointer is not None and pointer.finished:
        return
    state, final = open_saved_state(session, checkpoint_path(session, live)), session.folder.root / "final"
    state.save_pretrained(final, overwrite=True, ranks=ranks)
    ranks.first(lambda: point(session, live, final))


def point(session: Session, live: Live, checkpoint: Path, window: Sequence[tuple[float, ...]] = ()) -> None:
    """Continue from this checkpoint after the next start; `window` is what its steps since the last row of the log came to."""
    session.folder.set_pointer(pointer_to(session, live, checkpoint, window))


def pointer_to(
    session: Session, live: Live, checkpoint: Path, window: Sequence[tuple[float, ...]] = ()
) -> Pointer:
    """What says to continue from this checkpoint, with the log as it is now."""
    return Pointer(
        checkpoint=checkpoint.relative_to(session.folder.root).as_posix(),
        stages=live.course.begun,
        step=live.step,
        flops=live.course.flops(live.step),
        seconds=round(session.seconds, 3),
        metrics_bytes=session.log.sync() if session.log is not None else 0,
        finished=live.course.finished and checkpoint.name == "final",
        data=session.data.record,
        window=tuple(window),
    )


def load_checkpoint(session: Session, path: Path, course: Course, step: int) -> Live:
    """A model and optimizer that continue a saved state, with the options of the stage whatever the state was trained with."""
    return load_state(session, open_saved_state(session, path), course, step)


def open_saved_state(session: Session, path: Path) -> TrainingState:
    """A saved state; what one rank finds wrong with it ends all of them. Rank 0 looks at every number for all."""
    ranks = session.ranks
    told = partial(session.progress.read, path.name)
    return ranks.together(
        lambda: TrainingState.from_pretrained(path, allow_nonfinite=not ranks.leads, progress=told)
    )


def load_state(session: Session, state: TrainingState, course: Course, step: int) -> Live:
    """The same for a state that is not on the disk."""
    model = session.device_at(course.stage).build(state.config)
    optimizer = build_optimizer(model, course.own.optimizer)
    state.load_into(model, optimizer if state.optimizer is not None else None)
    return Live(model, optimizer, course, step, state.lineage)
