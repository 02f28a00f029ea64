"""The files beside the weights that `Trainer.train(resume_from_checkpoint=...)` reads, written without holding a moment.

`optimizer.pt` is a zip of a pickled outline and one record per tensor. The outline is saved with fake tensors, which
reserves a record for each; the records' offsets are read back, and the moments are written there block by block.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch

from outgrow.algebra.slots import MOMENTS
from outgrow.errors import CheckpointError
from outgrow.models.library import decay_names, meta_model
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.growth_log import GROWTHS
from outgrow.store.optimizer_order import decay_rules
from outgrow.store.optimizer_rules import class_defaults, is_number
from outgrow.store.pickled import from_json, save_plain
from outgrow.store.safetensors_folder import some
from outgrow.store.source import TensorMeta, TensorSource
from outgrow.store.writer import FilePlan, Key

RANDOM = re.compile(r"rng_state(?:_\d+)?\.pth")
"""What Trainer calls its random states."""


def trainer_groups(config: Mapping[str, Any], optimizer: OptimizerInfo, *, own: bool) -> OptimizerInfo:
    """The groups that Trainer will have when it resumes.

    Those of its default are two: decayed parameters, then the rest, in the model's order, frozen ones left out. Groups
    that an older Trainer made by another rule become these. `own`: the optimizer came from a Trainer; groups that follow
    none of its rules were then passed as `optimizers=`, and stay.
    """
    held = {name: group for group in optimizer.groups for name in group.names}
    model = meta_model(config)
    order = [name for name, _ in model.named_parameters() if name in held]
    if own and not _follows_trainer(config, optimizer, order):
        place = {name: number for number, name in enumerate(order)}
        kept = [
            ParamGroup(tuple(sorted(g.names, key=place.__getitem__)), g.options) for g in optimizer.groups
        ]
        return _complete(optimizer, kept)
    decayed = set(decay_names(model))
    parts = [tuple(n for n in order if n in decayed), tuple(n for n in order if n not in decayed)]
    if own:
        groups = zip(parts, optimizer.groups, strict=True)
        return _complete(optimizer, [ParamGroup(names, group.options) for names, group in groups])
    return _complete(optimizer, [_one_group(optimizer, held, *pair) for pair in (parts, parts[::-1])])


def _follows_trainer(config: Mapping[str, Any], optimizer: OptimizerInfo, order: Sequence[str]) -> bool:
    """Whether the groups are two by one of the rules that Trainer has had."""
    found = [frozenset(group.names) for group in optimizer.groups]
    return len(found) == 2 and any(
        found == [rule & set(order), set(order) - rule] for rule in decay_rules(config)
    )


def _one_group(
    optimizer: OptimizerInfo, held: Mapping[str, ParamGroup], names: tuple[str, ...], other: tuple[str, ...]
) -> ParamGroup:
    """One of Trainer's groups, whose parameters must have the same options."""
    found = [held[name].options for name in names or other[:1]]
    if not found or any(each != found[0] for each in found):
        raise CheckpointError(
            "this optimizer cannot be written as a Trainer checkpoint: Trainer has one group of decayed parameters "
            "and one of the rest, and within one of them the options differ",
            got=" / ".join(f"{len(group.names)} parameters: {group.options}" for group in optimizer.groups),
            fix="save the native format, which keeps any groups",
        )
    return ParamGroup(names, found[0])


def _complete(optimizer: OptimizerInfo, groups: Sequence[ParamGroup]) -> OptimizerInfo:
    """Groups with every option that the optimizer's class and its schedule expect."""
    full = [ParamGroup(one.names, {**class_defaults(optimizer.name), **one.options}) for one in groups]
    return OptimizerInfo(
        optimizer.name,
        tuple(
            ParamGroup(
                one.names, {**one.options, "initial_lr": one.options.get("initial_lr", one.options["lr"])}
            )
            for one in full
        ),
    )


def write_optimizer_outline(
    path: Path, source: TensorSource, optimizer: OptimizerInfo, steps: Mapping[str, float]
) -> list[Any]:
    """Write `optimizer.pt` with space for every moment, and say where each goes: JSON, for `outline_plan`."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    names = [name for group in optimizer.groups for name in group.names]
    rules = optimizer.rules()
    held = {slot: frozenset(source.names(slot)) for slot in MOMENTS}
    with FakeTensorMode():
        state: dict[int, dict[str, Any]] = {}
        for number, name in enumerate(names):
            entry: dict[str, Any] = {
                slot: _fake(source.meta(name, slot)) for slot in MOMENTS if name in held[slot]
            }
            if entry:
                rule = rules[name]
                count = {"step": rule.step(steps[name], torch.device("cpu"))} if rule.counts else {}
                state[number] = {**count, **entry, **dict.fromkeys(rule.ignored, 0)}
    try:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save({"state": state, "param_groups": _param_groups(optimizer)}, path)
    except RuntimeError as error:  # torch's zip writer hides the system's error
        wanted = sum(source.meta(name, slot).bytes for slot, names in held.items() for name in names)
        path.touch()
        os.truncate(path, wanted)  # says itself where a file may not be so large
        full = shutil.disk_usage(path.parent).free < 1 << 20
        number = errno.ENOSPC if full else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    try:
        with FakeTensorMode():
            outline = torch.load(path, weights_only=True)["state"]
    except RuntimeError as error:  # and so does its reader
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path)) from error
    offsets: dict[Key, int] = {}
    with open(path, "r+b") as file:
        for number, entry in outline.items():
            name = names[number]
            if isinstance(entry.get("step"), torch.Tensor):
                file.seek(_offset(entry["step"]))
                file.write(struct.pack("<f", steps[name]))
            offsets |= {(slot, name): _offset(entry[slot]) for slot in MOMENTS if slot in entry}
    return [path.name, path.stat().st_size, [[*key, offset] for key, offset in offsets.items()]]


def outline_plan(found: list[Any]) -> FilePlan:
    """What `write_optimizer_outline` said, which every process needs to write its share."""
    name, size, places = found
    return FilePlan(name, size, b"", {(slot, tensor): offset for slot, tensor, offset in places})


def write_scheduler(path: Path, record: Any, optimizer: OptimizerInfo, step: int) -> None:
    """`scheduler.pt`."""
    save_plain(scheduler_state(record, optimizer, step), path)


def scheduler_state(record: Any, optimizer: OptimizerInfo, step: int) -> Any:
    """What `scheduler.pt` will hold: the record where the state has one, else a schedule that stands at `step`.

    Raises `CheckpointError` where the record is for another number of groups.
    """
    rates = [group.options["initial_lr"] for group in optimizer.groups]
    if record is None:
        return {
            "base_lrs": rates,
            "last_epoch": step,
            "_step_count": step + 1,
            "_is_initial": False,
            "_get_lr_called_within_step": False,
            "_last_lr": [group.options["lr"] for group in optimizer.groups],
            "lr_lambdas": [{} for _ in rates],
        }
    if not isinstance(record, dict) or any(
        isinstance(record.get(key), list) and len(record[key]) != len(rates) for key in _PER_GROUP
    ):
        raise CheckpointError(
            f"the schedule's state is not for the optimizer's {len(rates)} groups",
            got=record,
            fix="begin it anew: --reset-schedule",
        )
    return check_schedule("the schedule's state", record)


def check_schedule(where: str, record: Any) -> Any:
    """A schedule's state as it is; an error where its rates are no rates, or its counts no counts, however deep they stand."""
    if isinstance(record, dict):
        for key, value in record.items():
            rates = value if isinstance(value, list) else [value]
            wrong = key in _RATES and not all(is_number(one) and one >= 0 for one in rates)
            if wrong or (key in _COUNTS and type(value) is not int):
                raise CheckpointError(f"{key} in {where} is damaged", got=value)
    for one in record.values() if isinstance(record, dict) else record if isinstance(record, list) else ():
        check_schedule(where, one)
    return record


_RATES = ("base_lrs", "_last_lr", "min_lrs")
_PER_GROUP = (*_RATES, "lr_lambdas")
_COUNTS = ("last_epoch", "_step_count")


def trainer_state(record: Any, step: int, lineage: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """`trainer_state.json`: the record where the state has one, else a run that stands at `step`; the lineage in its log."""
    from transformers import TrainerControl, TrainerState

    if record is None:
        # Trainer fails on a state without a batch size or without its own control's entry
        fresh = TrainerState(global_step=step, train_batch_size=0, stateful_callbacks=[TrainerControl()])
        record = asdict(cast(Any, fresh))
    if not isinstance(record, dict):
        raise CheckpointError("the record of Trainer is not a JSON object", got=type(record).__name__)
    step = record.get("global_step", step)
    log = [entry for entry in record.get("log_history") or () if GROWTHS not in entry]
    told = [{"step": step, GROWTHS: list(lineage)}] if lineage else []
    return {**record, "global_step": step, "log_history": [*log, *told]}


def write_random_states(folder: Path, record: Any) -> None:
    """`rng_state*.pth` where the state came from a Trainer."""
    for name, content in random_states(record).items():
        save_plain(content, folder / name)


def random_states(record: Any) -> dict[str, Any]:
    """File name -> content of `rng_state*.pth`, where the state came from a Trainer.

    Raises `CheckpointError` for a record that would write any other file, or that is damaged.
    """
    states = record.get("trainer", {}) if isinstance(record, dict) else {}
    if not isinstance(states, dict) or not all(RANDOM.fullmatch(name) for name in states):
        raise CheckpointError(
            "the record rng does not hold the random states of a Trainer",
            got=some(list(states)) if isinstance(states, dict) else type(states).__name__,
            expected="rng_state.pth, or rng_state_0.pth ... of each process",
            fix="do not trust this state; without rng.json it can be written",
        )
    try:
        return {name: from_json(content) for name, content in states.items()}
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise CheckpointError("the record rng is damaged", got=error) from error


def seal_optimizer(path: Path, plan: FilePlan, checksums: Mapping[Key, int]) -> None:
    """Correct the zip's own checksums of the records, which were reserved as zeros, so that any zip reader is content."""
    values = {offset: checksums[key] for key, offset in plan.offsets.items()}
    with zipfile.ZipFile(path) as archive:
        infos, directory = archive.infolist(), cast(Any, archive).start_dir
    with open(path, "r+b") as file:
        position = directory
        for info in infos:
            file.seek(position)
            head = file.read(46)
            name_length, extra_length, comment_length = struct.unpack("<HHH", head[28:34])
            start, flags = _record_start(file, info.header_offset)
            if start in values or "/data/" in info.filename:
                crc = values.get(start)
                if crc is None:
                    file.seek(start)
                    crc = zlib.crc32(file.read(info.file_size))
                packed = struct.pack("<I", crc)
                file.seek(position + 16)
                file.write(packed)
                if flags & 8:
                    file.seek(start + info.file_size + 4)
                else:
                    file.seek(info.header_offset + 14)
                file.write(packed)
            position += 46 + name_length + extra_length + comment_length


def _record_start(file: Any, header: int) -> tuple[int, int]:
    file.seek(header)
    head = file.read(30)
    (flags,) = struct.unpack("<H", head[6:8])
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    return header + 30 + name_length + extra_length, flags


def _param_groups(optimizer: OptimizerInfo) -> list[dict[str, Any]]:
    groups, first = [], 0
    for group in optimizer.groups:
        options = {
            key: tuple(value) if isinstance(value, list) else value for key, value in group.options.items()
        }
        numbers = list(range(first, first + len(group.names)))
        groups.append({**options, "params": numbers, "param_names": list(group.names)})
        first += len(group.names)
    return groups


def _fake(meta: TensorMeta) -> torch.Tensor:
    return torch.empty(meta.shape, dtype=meta.dtype)


def _offset(fake: torch.Tensor) -> int:
    return cast(int, cast(Any, fake.untyped_storage())._checkpoint_offset)
