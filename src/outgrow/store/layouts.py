"""The formats of a training state: which files it becomes.

    native    everything, without pickle (see `native`)
    trainer   what `Trainer.train(resume_from_checkpoint=...)` continues
    hub       weights, config and tokenizer only
    dcp, accelerate, torchtitan, olmo-core       sharded, for many processes (see `dcp.writing`)

Every format names weights as the model in memory does, which `from_pretrained` and Trainer's resume both accept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from outgrow.algebra.slots import MOMENTS, SLOTS, WEIGHT
from outgrow.errors import CheckpointError, near
from outgrow.files.atomic import check_destination, json_text, publishing
from outgrow.models.library import model_names
from outgrow.store import native, trainer_files
from outgrow.store.card import CARD, model_card
from outgrow.store.config_file import config_text
from outgrow.store.contents import Contents, OptimizerInfo, has_moments, training_step
from outgrow.store.dcp.files import seal
from outgrow.store.dcp.writing import check_sharded, plan_sharded, write_dcp_beside
from outgrow.store.inventory import fates
from outgrow.store.pickled import record_text, save_plain
from outgrow.store.safetensors_folder import LINEAGE, some
from outgrow.store.source import TensorSource
from outgrow.store.writer import (
    BLOCK_BYTES,
    SHARD_BYTES,
    WORKERS,
    BytesProgress,
    FilePlan,
    Job,
    Key,
    file_checksum,
    index_json,
    plan_files,
    write_files,
)

if TYPE_CHECKING:
    from outgrow.parallel.ranks import Ranks

Format = Literal["native", "trainer", "hub", "dcp", "accelerate", "torchtitan", "olmo-core"]
FORMATS: tuple[Format, ...] = ("native", "trainer", "hub", "dcp", "accelerate", "torchtitan", "olmo-core")


def save_contents(
    state: Contents,
    path: str | Path,
    *,
    format: Format = "native",
    overwrite: bool = False,
    ranks: Ranks,
    progress: BytesProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
    block_bytes: int = BLOCK_BYTES,
    workers: int = WORKERS,
) -> Path:
    """Write a state from any source, streaming; `path` appears whole or not at all.

    Every one of `ranks` writes its share of the same bytes; the first also writes what is small, and publishes.
    `block_bytes` bounds the rows that are computed at once, `workers` the threads of each that write them.
    """
    check_format(format)
    destination = Path(path)
    sources = {file.path.parent for file in state.source.files()}
    check_destination(destination, overwrite=overwrite, sources=sources)
    check_read(state, format)
    check_complete(state)
    state = _inventoried(state, format)
    writer, layout = _Writer(state, ranks, shard_bytes, block_bytes, workers, progress), _LAYOUTS[format]
    layout.check(writer)
    needed = writer.needed_bytes(layout.slots) + (writer.outline_bytes() if layout.outlined else 0)
    with ExitStack() as stack:
        place = publishing(destination, overwrite=overwrite, needed_bytes=needed)
        layout.write(writer, Path(ranks.first(lambda: str(stack.enter_context(place)))))
        for file in state.source.files():
            file.check()
        ranks.first(stack.pop_all().close)  # here it is renamed, or all hear why not
    return destination


def check_format(format: str) -> None:
    """An error unless outgrow writes this format."""
    if format not in FORMATS:
        raise CheckpointError(f"unknown format {format!r}", expected=near(str(format), FORMATS))


def check_writable(state: Contents, format: Format, ranks: Ranks) -> None:
    """All that can be wrong with a state and a format and is known before any tensor is read."""
    check_format(format)
    check_read(state, format)
    check_complete(state)
    _LAYOUTS[format].check(_Writer(state, ranks, SHARD_BYTES, BLOCK_BYTES, WORKERS, None))


def check_read(state: Contents, format: Format) -> None:
    """An error where the format asks for a part of the source that is there and could not be read."""
    asked = {"trainer": {"moments", "schedule"}, "hub": set[str]()}.get(format, {"moments"})
    for one in state.unread:
        if one.part in asked:
            raise CheckpointError(
                f"{one.file} holds {_PARTS[one.part]} that outgrow cannot carry",
                got=one.why,
                fix=_WAYS[one.part],
            )


_PARTS = {"moments": "the optimizer's state", "schedule": "a schedule"}
_WAYS = {
    "moments": "go on without moments: --moments reset, or the weights alone: --format hub "
    "(in Python moments='reset', format='hub')",
    "schedule": "begin the schedule anew: --reset-schedule, or write another format",
}


def _inventoried(state: Contents, format: Format) -> Contents:
    """The state, its newest growth with what becomes of each file of the source."""
    if not state.files or not state.lineage or not state.lineage.last.lacks_files:
        return state
    found = fates(state.files, format, moments=has_moments(state.source))
    return replace(state, lineage=state.lineage.with_last(state.lineage.last.saying(files=found)))


def check_complete(state: Contents) -> None:
    """An error unless the source holds the tensors of the model in `config`, and for what the optimizer holds whole moments or none."""
    known = model_names(state.config)
    shapes, trained = known.shapes, known.trained
    moments = has_moments(state.source)
    if moments and state.optimizer is None:
        raise CheckpointError("the state has moments but does not say of which optimizer")
    if state.optimizer is not None:
        grouped = Counter(name for group in state.optimizer.groups for name in group.names)
        unfit = set(grouped) - set(trained) or {name for name, count in grouped.items() if count > 1}
        if unfit:
            raise CheckpointError(
                "the optimizer's groups are not the model's parameters, each once at most", got=some(unfit)
            )
    kept = state.optimizer.slots(trained) if state.optimizer is not None and moments else {}
    for slot in SLOTS.values():
        expected = {name for name in shapes if slot is WEIGHT or slot.name in kept.get(name, ())}
        names = set(state.source.names(slot.name))
        if names != expected:
            wrong = some(names ^ expected)
            raise CheckpointError(
                f"the state's {slot.name} tensors are not those of the model in its config", got=wrong
            )
        for name in expected:
            found, shape = state.source.meta(name, slot.name).shape, slot.shape(shapes[name])
            if found != shape:
                raise CheckpointError(f"{slot.name} of {name} has the wrong shape", got=found, expected=shape)
    counted = state.optimizer.counted() if state.optimizer is not None and moments else frozenset()
    if set(state.steps) != counted:
        raise CheckpointError(
            "the state has moments but not a number of steps for each of them", got=len(state.steps)
        )


@dataclass(frozen=True)
class _Writer:
    state: Contents
    ranks: Ranks
    shard_bytes: int
    block_bytes: int
    workers: int
    progress: BytesProgress | None

    def check_hub(self) -> None:
        """A model alone can always be written."""

    def check_native(self) -> None:
        for name, record in self.state.records.items():
            native.check_record_name(name)
            record_text(name, record)

    def check_trainer(self) -> None:
        if self.state.optimizer is None:
            fix = "save the format hub, or grow a state that has an optimizer"
            raise CheckpointError(
                "the state has no optimizer, so Trainer would start anew without a word", fix=fix
            )
        optimizer = self._trainer_groups()
        trainer_files.scheduler_state(
            self.state.records.get("scheduler"), optimizer, training_step(self.state)
        )
        trainer_files.trainer_state(self.state.records.get("trainer"), training_step(self.state))
        trainer_files.random_states(self.state.records.get("rng"))

    def _trainer_groups(self) -> OptimizerInfo:
        assert self.state.optimizer is not None
        own = "trainer" in self.state.records
        return trainer_files.trainer_groups(self.state.config, self.state.optimizer, own=own)

    def needed_bytes(self, slots: Iterable[str]) -> int:
        source = self.state.source
        tensors = sum(source.meta(name, slot).bytes + 300 for slot in slots for name in source.names(slot))
        return tensors + sum(asset.bytes for asset in self.state.assets) + (1 << 20)

    def outline_bytes(self) -> int:
        """Of the zip that `optimizer.pt` is, from above."""
        return 3600 * len(self.state.source.names("weight"))

    def write_hub(self, folder: Path) -> None:
        plans = self._weight_plans({LINEAGE: json.dumps(self.state.lineage)} if self.state.lineage else {})
        self._write(folder, plans)
        self.ranks.first(lambda: self._write_common(folder, plans))

    def write_dcp(self, folder: Path) -> None:
        """Our own sharded state: the folder's tensors, and beside them all that the native state has."""
        self._write_sharded("dcp", folder)
        self.ranks.first(lambda: self._finish_dcp(folder))

    def _finish_dcp(self, folder: Path) -> None:
        (folder / "config.json").write_text(config_text(self.state.config), encoding="utf-8")
        self._copy_assets(folder)
        native.write_native_beside(folder, self.state, training_step(self.state), {})

    def write_foreign(self, trainer: str, folder: Path) -> None:
        """Another trainer's checkpoint."""
        self._write_sharded(trainer, folder)
        self.ranks.first(lambda: write_dcp_beside(trainer, self.state, folder, training_step(self.state)))
        self.ranks.first(lambda: self._copy_assets(folder))

    def _write_sharded(self, trainer: str, folder: Path) -> None:
        for plan in plan_sharded(trainer, self.state, training_step(self.state), self.shard_bytes).folders:
            self.ranks.first(partial((folder / plan.name).mkdir, exist_ok=True))
            self.ranks.first(partial(seal, folder, plan, self._write(folder, plan.files, plan.view)))

    def write_trainer(self, folder: Path) -> None:
        state = self.state
        optimizer = self._trainer_groups()
        outline = trainer_files.outline_plan(
            self.ranks.first(
                lambda: trainer_files.write_optimizer_outline(
                    folder / "optimizer.pt", state.source, optimizer, state.steps
                )
            )
        )
        plans = self._weight_plans({LINEAGE: json.dumps(state.lineage)} if state.lineage else {})
        checksums = self._write(folder, (*plans, outline))
        self.ranks.first(lambda: self._finish_trainer(folder, plans, outline, checksums, optimizer))

    def _finish_trainer(
        self,
        folder: Path,
        plans: tuple[FilePlan, ...],
        outline: FilePlan,
        checksums: Mapping[Key, int],
        optimizer: OptimizerInfo,
    ) -> None:
        state, step = self.state, training_step(self.state)
        trainer_files.seal_optimizer(folder / "optimizer.pt", outline, checksums)
        trainer_files.write_scheduler(
            folder / "scheduler.pt", state.records.get("scheduler"), optimizer, step
        )
        if "scaler" in state.records:
            save_plain(state.records["scaler"], folder / "scaler.pt")
        record = trainer_files.trainer_state(state.records.get("trainer"), step, state.lineage)
        (folder / "trainer_state.json").write_text(json_text(record), encoding="utf-8")
        trainer_files.write_random_states(folder, state.records.get("rng"))
        self._write_common(folder, plans)

    def write_native(self, folder: Path) -> None:
        plans = self._weight_plans({})
        moments = self._moment_plans()
        checksums = self._write(folder, (*plans, *moments))
        self.ranks.first(lambda: self._finish_native(folder, plans, moments, checksums))

    def _finish_native(
        self,
        folder: Path,
        plans: tuple[FilePlan, ...],
        moments: tuple[FilePlan, ...],
        checksums: Mapping[Key, int],
    ) -> None:
        self._write_common(folder, plans)
        _write_index(folder, "optimizer", moments, 0)
        files = {
            plan.name: (plan.size, file_checksum(plan, checksums, self.state.source))
            for plan in (*plans, *moments)
        }
        native.write_native_beside(folder, self.state, training_step(self.state), files)

    def _write(
        self, folder: Path, plans: tuple[FilePlan, ...], source: TensorSource | None = None
    ) -> dict[Key, int]:
        return write_files(
            source or self.state.source,
            folder,
            plans,
            ranks=self.ranks,
            block_bytes=self.block_bytes,
            workers=self.workers,
            progress=self.progress,
        )

    def _write_common(self, folder: Path, plans: tuple[FilePlan, ...]) -> None:
        source = self.state.source
        parameters = sum(
            torch.Size(source.meta(name, "weight").shape).numel() for name in source.names("weight")
        )
        _write_index(folder, "model", plans, parameters)
        (folder / "config.json").write_text(config_text(self.state.config), encoding="utf-8")
        if self.state.lineage:
            card = model_card(self.state.config, self.state.lineage)
            (folder / CARD).write_text(card, encoding="utf-8")
        self._copy_assets(folder)

    def _copy_assets(self, folder: Path) -> None:
        for asset in self.state.assets:
            asset.write(folder)

    def _weight_plans(self, metadata: Mapping[str, str]) -> tuple[FilePlan, ...]:
        source = self.state.source
        jobs = [Job("weight", name, name, source.meta(name, "weight")) for name in source.names("weight")]
        return plan_files(jobs, "model", shard_bytes=self.shard_bytes, metadata=metadata)

    def _moment_plans(self) -> tuple[FilePlan, ...]:
        source = self.state.source
        jobs = [
            Job(slot, name, native.moment_key(name, slot), source.meta(name, slot))
            for slot in MOMENTS
            for name in source.names(slot)
        ]
        return plan_files(jobs, "optimizer", shard_bytes=self.shard_bytes) if jobs else ()


def _write_index(folder: Path, stem: str, plans: tuple[FilePlan, ...], parameters: int) -> None:
    if len(plans) > 1:
        path = folder / f"{stem}.safetensors.index.json"
        path.write_text(json_text(index_json(plans, parameters)), encoding="utf-8")


@dataclass(frozen=True)
class _Layout:
    """One format: what must hold before any work, which slots it keeps, and its writing."""

    check: Callable[[_Writer], None]
    write: Callable[[_Writer, Path], None]
    slots: tuple[str, ...] = tuple(SLOTS)
    outlined: bool = False
    """Whether tensors lie in zips with outlines."""


def _foreign(trainer: str) -> _Layout:
    return _Layout(
        lambda writer: check_sharded(trainer, writer.state),
        lambda writer, folder: writer.write_foreign(trainer, folder),
        outlined=True,
    )


_LAYOUTS: Mapping[Format, _Layout] = {
    "native": _Layout(_Writer.check_native, _Writer.write_native),
    "trainer": _Layout(_Writer.check_trainer, _Writer.write_trainer, outlined=True),
    "hub": _Layout(_Writer.check_hub, _Writer.write_hub, slots=("weight",)),
    "dcp": _Layout(_Writer.check_native, _Writer.write_dcp, outlined=True),
    "accelerate": _foreign("accelerate"),
    "torchtitan": _foreign("torchtitan"),
    "olmo-core": _foreign("olmo-core"),
}
