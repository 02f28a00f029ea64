"""A folder of Hugging Face: the weights, and what a Trainer, Accelerate, FSDP or DeepSpeed left beside them.

The weights never wait for the rest: an optimizer or a schedule that cannot be carried is named in `unread`, and is an
error only where it is asked for (see `layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from outgrow.errors import CheckpointError
from outgrow.models.library import library_names, model_names
from outgrow.store.config_file import raw_config, read_json
from outgrow.store.contents import Contents, Unread
from outgrow.store.growth_log import logged_lineage
from outgrow.store.optimizer_file import OptimizerFile, option_tree, read_optimizer_file
from outgrow.store.pickled import load_plain, to_json
from outgrow.store.safetensors_folder import SafetensorsSource, read_lineage
from outgrow.store.trainer_files import RANDOM, check_schedule

INCOMPLETE = "checkpoint-is-incomplete.txt"
"""Trainer leaves this where it was stopped while saving."""
OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
"""Files of `torch.save` that hold the state of an optimizer: Trainer's, Accelerate's."""
_FOREIGN = {
    "optimizer_[0-9]*": "shards of FSDP, which are not read here: gather them, or save with FULL_STATE_DICT",
    "global_step*": "DeepSpeed's own files, which outgrow does not read",
    "*_optim_states.pt": "DeepSpeed's own file, which outgrow does not read",
}


@dataclass
class _Beside:
    """What was found beside the weights; `names` are the files that it came from."""

    records: dict[str, Any] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def read(self, record: str, path: Path, reader: Callable[[Path], Any]) -> None:
        """A record that is nice to have: where it cannot be read it stays behind, with the reason."""
        if not path.is_file():
            return
        try:
            self.records[record] = reader(path)
            self.names.append(path.name)
        except CheckpointError as error:
            self.refused[path.name] = str(error).splitlines()[0]


@dataclass(frozen=True)
class OpenedCheckpoint:
    """The contents of a folder, the files that its records and moments came from, why others were refused, ignored tensors."""

    contents: Contents
    records: tuple[str, ...]
    optimizer: tuple[str, ...]
    refused: Mapping[str, str]
    ignored: tuple[str, ...]


def open_checkpoint(folder: Path, config: dict[str, Any]) -> OpenedCheckpoint:
    """Open a model folder, with moments and records where a training left them."""
    if (folder / INCOMPLETE).exists():
        fix = "use an earlier checkpoint"
        raise CheckpointError(f"{folder} is incomplete: Trainer was stopped while writing it", fix=fix)
    names = model_names(config)
    weights = SafetensorsSource.open(folder, names)
    beside = _read_records(folder)
    found = _read_optimizer(folder, config, beside)
    contents = Contents(
        config,
        weights if found is None else replace(weights, entries={**weights.entries, **found.moments}),
        {} if found is None else found.steps,
        None if found is None else found.info,
        beside.records,
        read_lineage(weights.metadata) or logged_lineage(beside.records.get("trainer")),
        unread=tuple(beside.unread),
    )
    used = tuple(name for name in OPTIMIZERS if found is not None and (folder / name).is_file())[:1]
    return OpenedCheckpoint(contents, tuple(beside.names), used, beside.refused, weights.ignored)


def _read_optimizer(folder: Path, config: Mapping[str, Any], beside: _Beside) -> OptimizerFile | None:
    """The optimizer's state; None where there is none, or none that can be carried."""
    path = next((folder / name for name in OPTIMIZERS if (folder / name).is_file()), None)
    if path is None:
        beside.unread += _elsewhere(folder)
        return None
    version = raw_config(folder).get("transformers_version")
    names = library_names(config)  # torch numbers parameters by their places in the model's own code
    names = replace(names, shapes=names.trained)
    try:
        return read_optimizer_file(path, config, names, version if isinstance(version, str) else None)
    except CheckpointError as error:
        why = "; ".join(line.strip() for line in str(error).splitlines())
        beside.unread.append(Unread(path.name, "moments", why))
        beside.refused[path.name] = str(error).splitlines()[0]
        return None


def _elsewhere(folder: Path) -> list[Unread]:
    """An optimizer's state that lies in other files, or that should be there and is gone."""
    for pattern, why in _FOREIGN.items():
        path = next(iter(sorted(folder.glob(pattern))), None)
        if path is not None:
            return [Unread(path.name, "moments", why)]
    left = [
        path.name
        for path in sorted(folder.iterdir())
        if path.name == "scheduler.pt" or RANDOM.fullmatch(path.name)
    ]
    if left:
        why = f"it is missing, though {left[0]} is there: the checkpoint was half deleted, or copied in part"
        return [Unread("optimizer.pt", "moments", why)]
    return []


def read_trainer_records(folder: Path) -> dict[str, Any]:
    """What Trainer keeps beside the tensors, as far as it can be read: its state, the scheduler's, the random numbers'."""
    return _read_records(folder).records


def _read_records(folder: Path) -> _Beside:
    beside = _Beside()
    beside.read("trainer", folder / "trainer_state.json", _trainer_state)
    beside.read("scheduler", folder / "scheduler.pt", _schedule)
    beside.unread += [Unread(name, "schedule", why) for name, why in beside.refused.items()]
    beside.read("scaler", folder / "scaler.pt", lambda path: option_tree(load_plain(path), str(path)))
    states: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if RANDOM.fullmatch(path.name):
            own = _Beside()
            own.read("state", path, lambda one: to_json(load_plain(one)))
            beside.refused |= own.refused
            beside.names += own.names
            states |= dict.fromkeys([path.name] * len(own.records), own.records.get("state"))
    if states:
        beside.records["rng"] = {"trainer": states}
    return beside


def _schedule(path: Path) -> Any:
    return check_schedule(str(path), option_tree(load_plain(path), str(path)))


def _trainer_state(path: Path) -> Any:
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object", got=type(content).__name__)
    log, step = content.get("log_history", []), content.get("global_step", 0)
    if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
        raise CheckpointError(f"log_history in {path} is not a list of entries", got=log)
    if type(step) is not int or step < 0:
        raise CheckpointError(f"global_step in {path} is not a number of steps", got=step)
    for name, kinds in _TRAINER_FIELDS.items():
        value = content.get(name)
        number = type(value) in (int, float) and name != "best_metric"
        if value is not None and (type(value) not in kinds or (number and not 0 <= value < inf)):
            raise CheckpointError(f"{name} in {path} is nothing that Trainer goes on from", got=value)
    return content


_COUNTS = (
    "epoch",
    "max_steps",
    "num_train_epochs",
    "num_input_tokens_seen",
    "total_flos",
    "best_global_step",
)
_SETTINGS = ("logging_steps", "eval_steps", "save_steps", "train_batch_size", "best_metric")
_TRAINER_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys((*_COUNTS, *_SETTINGS), (int, float)),
    **dict.fromkeys(("best_model_checkpoint", "trial_name"), (str,)),
    **dict.fromkeys(("stateful_callbacks", "trial_params"), (dict,)),
}
"""What Trainer reads of its own state; each may be null."""
