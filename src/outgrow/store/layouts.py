"""The formats of a training state: which files it becomes, and which reader opens a folder.

    native    everything, without pickle (see `native`)
    trainer   what `Trainer.train(resume_from_checkpoint=...)` continues
    hub       weights, config and tokenizer only

Every format names weights as the model in memory does, which `from_pretrained` and Trainer's resume both accept.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from outgrow.errors import CheckpointError, near
from outgrow.store import native, trainer_files
from outgrow.store.atomic import check_destination, is_temporary, json_text, publishing
from outgrow.store.check import SLOTS, scan
from outgrow.store.checksum import combine_all
from outgrow.store.contents import Contents
from outgrow.store.models import load_config, model_names, named_shapes
from outgrow.store.optimizer_file import MOMENTS, open_trainer
from outgrow.store.pickled import to_json
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.safetensors_folder import LINEAGE, SafetensorsSource, read_lineage, some
from outgrow.store.source import TensorSource
from outgrow.store.writer import (
    BLOCK_BYTES,
    SHARD_BYTES,
    WORKERS,
    FilePlan,
    Job,
    Key,
    Progress,
    file_checksum,
    index_json,
    plan_files,
    write_files,
)

if TYPE_CHECKING:
    from outgrow.state import TrainingState

Format = Literal["native", "trainer", "hub"]
FORMATS: tuple[Format, ...] = ("native", "trainer", "hub")
ASSETS = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Files of a tokenizer, and generation defaults: copied along as they are."""


@dataclass(frozen=True)
class Opened:
    """A state as read from a folder."""

    config: dict[str, Any]
    contents: Contents
    assets: tuple[Path, ...]


def load(folder: Path, *, allow_nonfinite: bool = False) -> Opened:
    """Open a native state, a Trainer checkpoint or a Hugging Face model folder; check all of it before any work."""
    if not folder.is_dir():
        fix = "outgrow opens local folders; fetch one of the hub with `hf download NAME --local-dir FOLDER`"
        raise CheckpointError(f"{folder} is not a folder", fix=fix)
    if is_temporary(folder.resolve()):
        raise CheckpointError(f"{folder} was left by an interrupted save", fix="delete it and save again")
    config = load_config(folder)
    if (folder / native.MANIFEST).exists() or (folder / "optimizer.json").exists():
        contents = native.open_native(folder, model_names(config))
    elif any(
        (folder / name).exists()
        for name in ("optimizer.pt", "trainer_state.json", "checkpoint-is-incomplete.txt")
    ):
        contents = open_trainer(folder, config)
    else:
        source = SafetensorsSource.open(folder, model_names(config))
        contents = Contents(source, lineage=read_lineage(source.metadata))
    _check_contents(contents, allow_nonfinite)
    return Opened(config, contents, tuple(folder / name for name in ASSETS if (folder / name).is_file()))


def save(
    state: TrainingState,
    path: str | Path,
    *,
    format: Format = "native",
    overwrite: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    block_bytes: int = BLOCK_BYTES,
    workers: int = WORKERS,
) -> Path:
    """Write a state from any source, streaming; `path` appears whole or not at all.

    `block_bytes` bounds the rows that are computed at once, `workers` the threads that write them.
    """
    if format not in FORMATS:
        raise CheckpointError(f"unknown format {format!r}", expected=near(str(format), FORMATS))
    destination = Path(path)
    check_destination(destination, overwrite=overwrite)
    check_complete(state)
    writer = _Writer(state, shard_bytes, block_bytes, workers, progress)
    if format == "native":
        for name in state.records:
            native.check_record_name(name)
    if format == "trainer":
        writer.check_trainer()
    with publishing(destination, overwrite=overwrite, needed_bytes=writer.needed_bytes(format)) as folder:
        getattr(writer, f"write_{format}")(folder)
    return destination


def check_complete(state: TrainingState) -> None:
    """An error unless the source holds the tensors of the model in `config`, and whole moments or none."""
    shapes = named_shapes(state.config)
    moments = [slot for slot in MOMENTS if state.source.names(slot)]
    for slot in ("weight", *(MOMENTS if moments or state.steps else ())):
        names = set(state.source.names(slot))
        if names != set(shapes):
            wrong = some(names ^ set(shapes))
            raise CheckpointError(
                f"the state's {slot} tensors are not those of the model in its config", got=wrong
            )
        for name, shape in shapes.items():
            found = state.source.meta(name, slot).shape
            if found != shape:
                raise CheckpointError(f"{slot} of {name} has the wrong shape", got=found, expected=shape)
    if moments and state.optimizer is None:
        raise CheckpointError("the state has moments but does not say of which optimizer")
    if set(state.steps) != (set(shapes) if moments else set()):
        raise CheckpointError(
            "the state has moments but not a number of steps for each of them", got=len(state.steps)
        )
    grouped = (
        [name for group in state.optimizer.groups for name in group.names]
        if state.optimizer
        else list(shapes)
    )
    if sorted(grouped) != sorted(shapes):
        wrong = some(set(grouped) ^ set(shapes))
        raise CheckpointError("the optimizer's groups are not the model's parameters, each once", got=wrong)


@dataclass(frozen=True)
class _Writer:
    state: TrainingState
    shard_bytes: int
    block_bytes: int
    workers: int
    progress: Progress | None

    @property
    def step(self) -> int:
        return int(max(self.state.steps.values(), default=0))

    def check_trainer(self) -> None:
        if self.state.optimizer is None:
            fix = "save the format hub, or grow a state that has an optimizer"
            raise CheckpointError(
                "the state has no optimizer, so Trainer would start anew without a word", fix=fix
            )
        trainer_files.trainer_groups(self.state.config, self.state.optimizer)

    def needed_bytes(self, format: str) -> int:
        source = self.state.source
        slots = ("weight",) if format == "hub" else SLOTS
        tensors = sum(source.meta(name, slot).bytes + 300 for slot in slots for name in source.names(slot))
        outline = 3600 * len(self.state.steps) if format == "trainer" else 0  # the zip's heads, from above
        return tensors + outline + sum(asset.stat().st_size for asset in self._assets()) + (1 << 20)

    def write_hub(self, folder: Path) -> None:
        plans = self._weight_plans({LINEAGE: json.dumps(self.state.lineage)} if self.state.lineage else {})
        self._write(folder, plans)
        self._write_common(folder, plans)

    def write_trainer(self, folder: Path) -> None:
        state = self.state
        assert state.optimizer is not None
        optimizer = trainer_files.trainer_groups(state.config, state.optimizer)
        path = folder / "optimizer.pt"
        outline = trainer_files.write_optimizer_outline(path, state.source, optimizer, state.steps)
        plans = self._weight_plans({LINEAGE: json.dumps(state.lineage)} if state.lineage else {})
        checksums = self._write(folder, (*plans, outline))
        trainer_files.seal_optimizer(path, outline, checksums)
        trainer_files.write_scheduler(
            folder / "scheduler.pt", state.records.get("scheduler"), optimizer, self.step
        )
        record = trainer_files.trainer_state(state.records.get("trainer"), self.step)
        (folder / "trainer_state.json").write_text(json_text(record), encoding="utf-8")
        trainer_files.write_random_states(folder, state.records.get("rng"))
        self._write_common(folder, plans)

    def write_native(self, folder: Path) -> None:
        state = self.state
        plans = self._weight_plans({})
        moments = self._moment_plans()
        checksums = self._write(folder, (*plans, *moments))
        self._write_common(folder, plans)
        if state.optimizer is not None:
            content = {**state.optimizer.to_json(), "steps": state.steps}
            (folder / "optimizer.json").write_text(json_text(content), encoding="utf-8")
            _write_index(folder, "optimizer", moments, 0)
        for name, record in state.records.items():
            (folder / f"{name}.json").write_text(json_text(to_json(record)), encoding="utf-8")
        files = {
            plan.name: (plan.size, file_checksum(plan, checksums, state.source))
            for plan in (*plans, *moments)
        }
        for path in folder.iterdir():
            if path.name not in files:
                files[path.name] = (path.stat().st_size, zlib.crc32(path.read_bytes()))
        content = native.manifest(state.config, state.lineage, state.records, state.steps, files)
        (folder / native.MANIFEST).write_text(json_text(content), encoding="utf-8")

    def _write(self, folder: Path, plans: tuple[FilePlan, ...]) -> dict[Key, int]:
        return write_files(
            self.state.source,
            folder,
            plans,
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
        (folder / "config.json").write_text(json_text(self.state.config), encoding="utf-8")
        for asset in self._assets():
            if not (folder / asset.name).exists():
                shutil.copyfile(asset, folder / asset.name)

    def _assets(self) -> tuple[Path, ...]:
        for asset in self.state.assets:
            if not asset.is_file():
                raise CheckpointError(f"{asset}, which the state copies along, is gone")
        return self.state.assets

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


def _check_contents(contents: Contents, allow_nonfinite: bool) -> None:
    """Every number finite, every file as written: one pass over all bytes."""
    if allow_nonfinite and not contents.checksums:
        return
    if not contents.checksums:
        scan(contents.source)
        return
    try:
        found = scan(contents.source, finite=not allow_nonfinite, checksums=True)
    except CheckpointError:
        _check_checksums(contents, scan(contents.source, finite=False, checksums=True))
        raise  # the file is as it was written: the numbers are at fault
    _check_checksums(contents, found)


def _check_checksums(contents: Contents, found: Mapping[Key, int]) -> None:
    source: TensorSource = contents.source
    assert isinstance(source, SafetensorsSource)
    files: dict[Path, list[tuple[Entry, int]]] = {}
    for (slot, name), crc in found.items():
        entry = source.entries[slot][name]
        files.setdefault(entry.file.path, []).append((entry, crc))
    for path, parts in files.items():
        start = read_header(path).data_start
        with open(path, "rb") as file:
            head = file.read(start)
        ordered = sorted(parts, key=lambda part: part[0].start)
        total = combine_all([(zlib.crc32(head), start), *((crc, entry.meta.bytes) for entry, crc in ordered)])
        if total != contents.checksums.get(path.name):
            raise native.changed(path)
