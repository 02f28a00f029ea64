"""A state as a sharded checkpoint of a trainer: which folders, what lies in each, and the small files beside them.

dcp          one folder, JSON beside (see `native`)          what our own runs save
accelerate   pytorch_model_fsdp_0/, optimizer_0/             Trainer and Accelerate with FSDP2, SHARDED_STATE_DICT
torchtitan   one folder, to be called step-N
olmo-core    model_and_optim/, config.json of its own
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outgrow.algebra.slots import MOMENTS
from outgrow.errors import CheckpointError
from outgrow.files.atomic import json_text
from outgrow.models.library import model_names
from outgrow.store import trainer_files
from outgrow.store.contents import Contents, OptimizerInfo, ParamGroup
from outgrow.store.dcp.files import FolderPlan, Value, plan_folder
from outgrow.store.dcp.naming import Address, Naming, naming
from outgrow.store.dcp.olmo_config import olmo_model
from outgrow.store.dcp.view import folder_view
from outgrow.store.optimizer_rules import class_defaults
from outgrow.store.safetensors_folder import LINEAGE

WEIGHTS = ("weight",)
Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Sharded:
    """One trainer's checkpoint of a state: its folders planned, nothing read."""

    table: Naming
    folders: tuple[FolderPlan, ...]

    @property
    def bytes(self) -> int:
        """To be written."""
        return sum(one.bytes for one in self.folders)


def plan_sharded(trainer: str, state: Contents, step: int, shard_bytes: int) -> Sharded:
    """Plan every folder of a checkpoint; CheckpointError where this trainer has no such model."""
    table, names = naming(trainer), model_names(state.config)
    addresses = table.addresses(state.config, (*names.shapes, *names.aliases))
    optimizer = None if state.optimizer is None else _whole_options(state.optimizer)
    keyed = {name: addresses[name] for name in names.shapes}
    values = () if optimizer is None else _values(table, optimizer, keyed, state.steps)
    if trainer == "torchtitan":
        values += _progress(state, step)

    def planned(folder: str, slots: tuple[str, ...], own: tuple[Value, ...]) -> FolderPlan:
        view = folder_view(table, addresses, names.aliases, state.source, slots)
        return plan_folder(folder, view, own, _paths(table, addresses, slots), shard_bytes)

    if trainer == "accelerate":
        first = planned("pytorch_model_fsdp_0", WEIGHTS, ())
        rest = (planned("optimizer_0", MOMENTS, values),) if optimizer is not None else ()
        return Sharded(table, (first, *rest))
    folder = "model_and_optim" if trainer == "olmo-core" else ""
    return Sharded(table, (planned(folder, (*WEIGHTS, *MOMENTS), () if trainer == "dcp" else values),))


def write_dcp_beside(trainer: str, state: Contents, folder: Path, step: int) -> None:
    """The small files of a foreign checkpoint: a config, and what its trainer resumes from."""
    config: Any = state.config
    if trainer == "olmo-core":
        config = {"model": olmo_model(state.config)}
        (folder / ".metadata.json").write_text(json_text({"ephemeral": False}), encoding="utf-8")
    (folder / "config.json").write_text(json_text(config), encoding="utf-8")
    if state.lineage:
        (folder / f"{LINEAGE}.json").write_text(json_text(state.lineage), encoding="utf-8")
    if trainer == "accelerate" and state.optimizer is not None:
        optimizer = _whole_options(state.optimizer)
        record = state.records.get("scheduler")
        trainer_files.write_scheduler(folder / "scheduler.pt", record, optimizer, step)
        text = json_text(trainer_files.trainer_state(state.records.get("trainer"), step, state.lineage))
        (folder / "trainer_state.json").write_text(text, encoding="utf-8")
        trainer_files.write_random_states(folder, state.records.get("rng"))


def _whole_options(optimizer: OptimizerInfo) -> OptimizerInfo:
    """Groups with every option that the optimizer's class has: a trainer's loader asks for each by name."""
    groups = []
    for group in optimizer.groups:
        full = {**class_defaults(optimizer.name), **group.options}
        groups.append(ParamGroup(group.names, {**full, "initial_lr": full.get("initial_lr", full["lr"])}))
    return OptimizerInfo(optimizer.name, tuple(groups))


def _values(
    table: Naming, optimizer: OptimizerInfo, addresses: Mapping[str, Address], steps: Mapping[str, float]
) -> tuple[Value, ...]:
    """Steps and options: of every parameter, or of every group."""
    root, options, _ = table.option.split(".", 2)
    found = []
    for name, step in steps.items():
        path = _state_path(table, addresses[name].key, "step")
        found.append(Value(path, torch.tensor(step, dtype=torch.float32)))
    for number, group in enumerate(optimizer.groups):
        content = {
            word: tuple(value) if isinstance(value, list) else value for word, value in group.options.items()
        }
        keys = [addresses[name].key for name in group.names]
        if table.grouped:
            found += [Value((root, options, number, word), value) for word, value in content.items()]
            found.append(Value((root, options, number, "params"), keys))
        else:
            found += [
                Value((root, f"{options}.{key}.{word}"), content[word]) for key in keys for word in content
            ]
    return tuple(found)


def _paths(table: Naming, addresses: Mapping[str, Address], slots: tuple[str, ...]) -> dict[str, Path_]:
    """Each tensor's path in the nested state that the trainer saves: where its names are split, and where not."""
    found: dict[str, Path_] = {}
    for slot in slots:
        for one in addresses.values():
            if slot == "weight":
                root = table.weight.partition("{key}")[0].rstrip(".")
                found[table.weight.format(key=one.key)] = (root, one.key) if root else (one.key,)
            else:
                found[table.state.format(key=one.key, slot=slot)] = _state_path(table, one.key, slot)
    return found


def _state_path(table: Naming, key: str, slot: str) -> Path_:
    """Where a slot stands in the optimizer's state: nested by groups' trainers, flat by the others."""
    root, _, rest = table.state.format(key=key, slot=slot).partition(".")
    return (root, "state", key, slot) if table.grouped else (root, rest)


def _progress(state: Contents, step: int) -> tuple[Value, ...]:
    """How far torchtitan's trainer is, and its schedule."""
    record = state.records.get("torchtitan")
    known = record if isinstance(record, dict) else {}
    return (
        Value(("train_state", "step"), int(known.get("step", step))),
        Value(("train_state", "ntokens_seen"), int(known.get("ntokens_seen", 0))),
        Value(("lr_scheduler", "last_epoch"), int(known.get("last_epoch", step))),
    )


def check_sharded(trainer: str, state: Contents) -> None:
    """An error where this trainer cannot go on with the state."""
    table = naming(trainer)
    table.addresses(state.config, tuple(model_names(state.config).shapes))
    if trainer != "dcp" and state.optimizer is None:
        fix = "save the format hub, or grow a state that has an optimizer"
        raise CheckpointError(f"the state has no optimizer, which {trainer} resumes", fix=fix)
    if trainer == "olmo-core":
        json.dumps(olmo_model(state.config))
