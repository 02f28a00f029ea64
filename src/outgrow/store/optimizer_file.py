"""`optimizer.pt` of a Hugging Face Trainer checkpoint, read lazily and under names.

The file numbers its parameters: those of group 0 first, then those of group 1. Trainer puts decayed parameters in
group 0 and the rest in group 1, both in `named_parameters()` order; `param_names`, if stored, says it outright.
Every count and shape is checked here: torch's own loader accepts wrong moments and its fused AdamW then crashes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.models.library import Shape, decay_names, meta_model, model_names
from outgrow.store.config_file import read_json
from outgrow.store.contents import Contents, OptimizerInfo, ParamGroup
from outgrow.store.optimizer_rules import RULE, check_entry, name_from_options
from outgrow.store.pickled import load_plain, to_json
from outgrow.store.safetensors_folder import SafetensorsSource, read_lineage, some
from outgrow.store.source import MemorySource, Rows, TensorMeta, TensorSource
from outgrow.store.trainer_files import logged_lineage

INCOMPLETE = "checkpoint-is-incomplete.txt"
"""Trainer leaves this where it was stopped while saving."""


@dataclass(frozen=True)
class TrainerSource(TensorSource):
    """Weights in safetensors files and moments in a mapped `optimizer.pt`."""

    weights: SafetensorsSource
    moments: MemorySource

    def names(self, slot: str) -> tuple[str, ...]:
        return self._of(slot).names(slot)

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self._of(slot).meta(name, slot)

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        return self._of(slot).read(name, slot, rows)

    def _of(self, slot: str) -> TensorSource:
        return self.weights if slot == "weight" else self.moments


def open_trainer(folder: Path, config: dict[str, Any]) -> Contents:
    """Open a checkpoint of `Trainer`; moments are absent where it has no `optimizer.pt`."""
    if (folder / INCOMPLETE).exists():
        fix = "use an earlier checkpoint"
        raise CheckpointError(f"{folder} is incomplete: Trainer was stopped while writing it", fix=fix)
    known = model_names(config)
    weights = SafetensorsSource.open(folder, known)
    records = read_records(folder)
    lineage = read_lineage(weights.metadata) or logged_lineage(records.get("trainer"))
    path = folder / "optimizer.pt"
    if not path.is_file():
        return Contents(config, TrainerSource(weights, MemorySource({})), records=records, lineage=lineage)
    shapes = {
        name: weights.meta(name, "weight").shape
        for name in weights.names("weight")
        if name not in known.buffers
    }
    state, groups = _parts(path, load_plain(path, mapped=True))
    order = _names_in_order(path, groups, shapes, config)
    info = _optimizer_info(path, groups, order)
    moments, steps = _moments(path, state, info, shapes)
    source = TrainerSource(weights, MemorySource(moments))
    return Contents(config, source, steps, info, records, lineage)


def _parts(path: Path, content: Any) -> tuple[dict[int, Any], list[dict[str, Any]]]:
    if not isinstance(content, dict) or not isinstance(content.get("state"), dict):
        raise CheckpointError(
            f"{path} is not an optimizer's state", expected='{"state": ..., "param_groups": ...}'
        )
    groups = content.get("param_groups")
    if not isinstance(groups, list) or not all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    ):
        raise CheckpointError(f"{path} has no valid param_groups")
    numbers = [number for group in groups for number in group["params"]]
    if numbers != list(range(len(numbers))):
        raise CheckpointError(
            f"{path} does not number its parameters 0, 1, 2 ...", got=some(list(map(str, numbers)))
        )
    return content["state"], groups


def _names_in_order(
    path: Path, groups: list[dict[str, Any]], shapes: Mapping[str, Shape], config: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """The parameter names of each group."""
    counts = [len(group["params"]) for group in groups]
    if sum(counts) != len(shapes):
        raise CheckpointError(
            f"{path} has moments for the wrong number of parameters", got=sum(counts), expected=len(shapes)
        )
    if all(group.get("param_names") for group in groups if group["params"]):
        order = [tuple(group.get("param_names") or ()) for group in groups]
        flat = [name for names in order for name in names]
        if [len(names) for names in order] != counts or sorted(flat) != sorted(shapes):
            unknown = set(flat) - set(shapes)
            raise CheckpointError(
                f"{path}: param_names are not those of the model", got=some(unknown or flat)
            )
        return order
    decayed = decay_names(meta_model(config))
    rest = tuple(name for name in shapes if name not in set(decayed))
    if counts != [len(decayed), len(rest)]:
        raise CheckpointError(
            f"{path} groups its parameters in another way than Trainer, and stores no names",
            got=f"groups of {counts}",
            expected=f"groups of {[len(decayed), len(rest)]}",
            fix="build the optimizer from model.named_parameters(), so that it stores param_names",
        )
    return [decayed, rest]


def _moments(
    path: Path, state: Mapping[int, Any], info: OptimizerInfo, shapes: Mapping[str, Shape]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    names = [name for group in info.groups for name in group.names]
    slots, rules = info.slots(shapes), info.rules()
    if not state:
        return {}, {}  # saved before the first step, or of an optimizer that keeps nothing
    if set(state) != set(range(len(names))):
        missing = [name for number, name in enumerate(names) if number not in state]
        raise CheckpointError(
            f"{path} has moments for the wrong number of parameters",
            got=f"{len(state)}; without moments: {some(missing)}",
            expected=len(names),
            fix="parameters that never got a gradient have none: leave them out of the model, or take one step with all",
        )
    moments: dict[str, dict[str, Tensor]] = {}
    steps: dict[str, float] = {}
    number_of = {name: number for number, name in enumerate(names)}
    for name, shape in shapes.items():
        entry, rule = state[number_of[name]], rules[name]
        if not isinstance(entry, dict):
            raise CheckpointError(f"{path}: the state of {name} is damaged", got=type(entry).__name__)
        check_entry(f"{path}: ", name, rule, slots[name], entry)
        for slot in slots[name]:
            check_moment(str(path), name, slot, entry[slot], SLOTS[slot].shape(shape))
            moments.setdefault(slot, {})[name] = entry[slot]
        if rule.counts:
            steps[name] = _step(path, name, entry["step"])
    return moments, steps


def _step(path: Path, name: str, value: Any) -> float:
    """The step count of one parameter, a number or a tensor that holds one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise CheckpointError(
            f"{path}: the step of {name} is damaged", got=value, expected="a number of steps, 0 or more"
        )
    return float(value)


def check_moment(where: str, name: str, slot: str, value: Any, shape: Shape) -> None:
    """An error unless `value` is a floating-point tensor of this shape."""
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
        found = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"{where}: {slot} of {name} has the wrong shape or dtype", got=found, expected=shape
        )


def _optimizer_info(
    path: Path, groups: list[dict[str, Any]], order: Sequence[tuple[str, ...]]
) -> OptimizerInfo:
    described = []
    for group, names in zip(groups, order, strict=True):
        options = {
            key: _group_option(path, key, value)
            for key, value in group.items()
            if key not in ("params", "param_names")
        }
        described.append((name_from_options(str(path), options), ParamGroup(names, options)))
    found = {name for name, _ in described}
    if len(found) > 1 and not all(RULE in group.options for _, group in described):
        raise CheckpointError(f"{path} has groups of several optimizers", got=some(found))
    return OptimizerInfo(described[0][0], tuple(group for _, group in described))


def _group_option(path: Path, key: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise CheckpointError(
            f"{path}: the option {key} is damaged",
            got=f"a tensor of {tuple(value.shape)}",
            expected="a number",
        )
    return option(value)


def option(value: Any) -> Any:
    """An optimizer option as a JSON value."""
    if isinstance(value, Tensor):
        value = value.item()
    return [option(item) for item in value] if isinstance(value, tuple | list) else to_json(value)


def read_records(folder: Path) -> dict[str, Any]:
    """What Trainer keeps beside the tensors: its state, the scheduler's and the random numbers'."""
    records: dict[str, Any] = {}
    if (folder / "trainer_state.json").is_file():
        records["trainer"] = read_json(folder / "trainer_state.json")
    if (folder / "scheduler.pt").is_file():
        records["scheduler"] = _option_tree(load_plain(folder / "scheduler.pt"))
    random_files = sorted(folder.glob("rng_state*.pth"))
    if random_files:
        records["rng"] = {"trainer": {path.name: to_json(load_plain(path)) for path in random_files}}
    return records


def _option_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _option_tree(item) for key, item in value.items()}
    return option(value)
