"""`optimizer.pt` of a Hugging Face Trainer, `optimizer.bin` of Accelerate: read lazily and under names.

The files number their parameters, store their names (`param_names`), or are keyed by names (FSDP's whole state): see
`optimizer_order`. A parameter that no group holds was frozen: it has no moments. One that a group holds and the state does
not never had a gradient: its moments are zeros at step 0, where any optimizer begins.
Every count and shape is checked here: torch's own loader accepts wrong moments and its fused AdamW then crashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.models.names import ModelNames, Shape
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.optimizer_order import ParameterPart, Reading, in_memory, read_order
from outgrow.store.optimizer_rules import (
    RULE,
    Rule,
    as_carried,
    check_entry,
    name_from_options,
    rule_named,
    step_count,
)
from outgrow.store.pickled import load_plain, to_json
from outgrow.store.safetensors_folder import GROWN_DTYPES, some
from outgrow.store.stacked import Held, Place, Stacked

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module)\.")
"""What DDP, torch.compile and FSDP put into a name."""


@dataclass(frozen=True)
class OptimizerFile:
    """An optimizer's groups, its moments by slot and name, and its steps by name."""

    info: OptimizerInfo
    moments: Mapping[str, Mapping[str, Place]]
    steps: dict[str, float]


def read_optimizer_file(
    path: Path, config: Mapping[str, Any], names: ModelNames, version: str | None
) -> OptimizerFile:
    """Read a file of an optimizer's state; the tensors stay on the disk. Raises `CheckpointError` where it cannot be carried."""
    identity = FileIdentity.of(path)
    state, groups = _parts(path, load_plain(path, mapped=True))
    numbers = [group["params"] for group in groups]
    reading = _named(path, groups, names)
    if reading is None:
        flat = [number for group in numbers for number in group]
        if flat != list(range(len(flat))):
            raise CheckpointError(
                f"{path} does not number its parameters 0, 1, 2 ...", got=some(list(map(str, flat)))
            )
        reading = read_order(str(path), numbers, state, config, names, version)
    info = _optimizer_info(path, groups, reading, names)
    entries = {
        piece: state.get(key)
        for pieces, keys in zip(reading, numbers, strict=True)
        for piece, key in zip(pieces, keys, strict=True)
    }
    unknown = set(state) - {key for keys in numbers for key in keys}
    if unknown:
        raise CheckpointError(
            f"{path} has moments of parameters in no group", got=some(list(map(str, unknown)))
        )
    moments, steps = _moments(identity, entries, info, names)
    return OptimizerFile(info, moments, steps)


def _parts(path: Path, content: Any) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        raise CheckpointError(
            f"{path} is not an optimizer's state", expected='{"state": ..., "param_groups": ...}'
        )
    groups = content.get("param_groups")
    if not isinstance(groups, list) or not all(
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and all(isinstance(key, int | str) for key in group["params"])
        for group in groups
    ):
        raise CheckpointError(f"{path} has no valid param_groups")
    return content["state"], groups


def _named(path: Path, groups: Sequence[Mapping[str, Any]], names: ModelNames) -> Reading | None:
    """The parameters of each group by the names that the file stores; None where it stores none."""
    keyed = all(isinstance(key, str) for group in groups for key in group["params"])
    full = [group for group in groups if group["params"]]
    if not full or not (keyed or all(group.get("param_names") for group in full)):
        return None
    called = [list(group["params"] if keyed else group.get("param_names") or ()) for group in groups]
    found = tuple(tuple(_piece(path, name, names) for name in group) for group in called)
    flat = [piece for pieces in found for piece in pieces]
    if [len(group) for group in called] != [len(group["params"]) for group in groups] or len(set(flat)) < len(
        flat
    ):
        raise CheckpointError(
            f"{path}: param_names are not those of the model, each once",
            got=some([piece.name for piece in flat]),
        )
    return found


def _piece(path: Path, name: Any, names: ModelNames) -> ParameterPart:
    plain = _WRAPPERS.sub("", name) if isinstance(name, str) else ""
    piece = in_memory(names.aliases.get(plain, plain), names)
    if piece is None:
        raise CheckpointError(f"{path}: param_names are not those of the model", got=name)
    return piece


def _moments(
    identity: FileIdentity, entries: Mapping[ParameterPart, Any], info: OptimizerInfo, names: ModelNames
) -> tuple[dict[str, dict[str, Place]], dict[str, float]]:
    path = identity.path
    if all(_is_empty(entry) for entry in entries.values()):
        return {}, {}  # saved before the first step, or of an optimizer that keeps nothing
    owners: dict[str, list[ParameterPart]] = {}
    for piece in entries:
        owners.setdefault(piece.name, []).append(piece)
    group_of = {name: group for group in info.groups for name in group.names}
    moments: dict[str, dict[str, Place]] = {}
    steps: dict[str, float] = {}
    for name in (name for name in names.shapes if name in owners):
        options = group_of[name].options
        rule = rule_named(info.name, options)
        slots = rule.slots(names.shapes[name], options)
        held = {piece: _entry(path, piece, entries[piece], rule, slots) for piece in owners[name]}
        for slot in slots:
            moments.setdefault(slot, {})[name] = _place(identity, name, slot, held, names)
        if rule.counts:
            steps[name] = max(step_count(f"{path}: ", name, entry["step"]) for entry in held.values())
    return moments, steps


def _is_empty(entry: Any) -> bool:
    return entry is None or (isinstance(entry, dict) and not entry)


def _entry(
    path: Path, piece: ParameterPart, entry: Any, rule: Rule, slots: tuple[str, ...]
) -> Mapping[str, Any]:
    """What the optimizer keeps for one parameter, checked; zeros where it has not stepped it."""
    if _is_empty(entry):
        dtype = torch.float32
        zeros = {slot: torch.zeros((), dtype=dtype).expand(SLOTS[slot].shape(piece.shape)) for slot in slots}
        return {**zeros, "step": 0}
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: the state of {piece.name} is damaged", got=type(entry).__name__)
    check_entry(f"{path}: ", piece.name, rule, slots, entry)
    for slot in slots:
        check_moment(str(path), piece.name, slot, entry[slot], SLOTS[slot].shape(piece.shape))
    return entry


def _place(
    identity: FileIdentity,
    name: str,
    slot: str,
    held: Mapping[ParameterPart, Mapping[str, Any]],
    names: ModelNames,
) -> Place:
    """Where a moment is: at hand, or put together from those of the parts that older models hold apart."""
    whole = next((entry for piece, entry in held.items() if piece.unit < 0), None)
    if whole is not None:
        return Held(whole[slot], identity)
    if SLOTS[slot].mean_over is not None:
        raise CheckpointError(f"{identity.path}: factors of {name} in parts cannot be put together", got=slot)
    units = names.apart[name]
    parts = {(piece.unit, piece.part): entry[slot] for piece, entry in held.items()}
    if len(parts) != sum(map(len, units)):
        raise CheckpointError(f"{identity.path} has moments of some parts of {name} alone", got=len(parts))
    return Stacked(
        tuple(
            tuple(Held(parts[unit, part], identity) for part in range(len(one)))
            for unit, one in enumerate(units)
        )
    )


def check_moment(where: str, name: str, slot: str, value: Any, shape: Shape) -> None:
    """An error unless `value` is a dense tensor of this shape, of a dtype that grows."""
    fits = isinstance(value, Tensor) and tuple(value.shape) == shape and value.dtype in GROWN_DTYPES
    if not fits or value.layout != torch.strided:
        found = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        found += " sparse" * (isinstance(value, Tensor) and value.layout != torch.strided)
        raise CheckpointError(
            f"{where}: {slot} of {name} has the wrong shape or dtype", got=found, expected=shape
        )


def _optimizer_info(
    path: Path, groups: Sequence[Mapping[str, Any]], reading: Reading, names: ModelNames
) -> OptimizerInfo:
    described = []
    place = {name: number for number, name in enumerate(names.shapes)}
    for group, pieces in zip(groups, reading, strict=True):
        options = as_carried(
            str(path),
            {
                key: option(value, f"{path}: the option {key}")
                for key, value in group.items()
                if key not in ("params", "param_names")
            },
        )
        owners = sorted({piece.name for piece in pieces}, key=place.__getitem__)
        described.append((name_from_options(str(path), options), ParamGroup(tuple(owners), options)))
    if not described:
        raise CheckpointError(f"{path} has no valid param_groups", got="none")
    found = {name for name, _ in described}
    if len(found) > 1 and not all(RULE in group.options for _, group in described):
        raise CheckpointError(f"{path} has groups of several optimizers", got=some(found))
    owned = [name for _, group in described for name in group.names]
    if len(set(owned)) < len(owned):
        raise CheckpointError(f"{path} has parts of one parameter in several groups", got=some(owned))
    return OptimizerInfo(described[0][0], tuple(group for _, group in described))


def option(value: Any, what: str = "an option") -> Any:
    """An optimizer option as a JSON value; `what` it is called in an error."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            got = f"a tensor of {tuple(value.shape)}"
            raise CheckpointError(f"{what} is damaged", got=got, expected="a number")
        value = value.item()
    return [option(item, what) for item in value] if isinstance(value, tuple | list) else to_json(value)


def option_tree(value: Any, where: str) -> Any:
    """A record of options, as of a scheduler, as JSON."""
    if isinstance(value, dict):
        return {str(key): option_tree(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [option_tree(item, where) for item in value]
    return option(value, f"an option in {where}")
