"""Another learning rate, or a schedule that begins anew, for a state that is to be trained on.

A Trainer that resumes takes its peak from `scheduler.pt`, not from its arguments; so whoever changes the rate after a
growth changes it here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outgrow.errors import CheckpointError, ConfigError
from outgrow.state.training_state import TrainingState
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.trainer_files import trainer_state

_INTERVALS = ("logging_steps", "eval_steps", "save_steps", "train_batch_size", "stateful_callbacks")
"""What a Trainer that resumes takes from the checkpoint instead of its own arguments."""
_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lrs", "max_lrs", "_last_lr", "peak")
_PEAKS = ("max_lr", "initial_lr", "lr")
"""Where a group's peak stands: the first that is there. OneCycleLR begins far below its own, `max_lr`."""


def rescheduled(
    state: TrainingState, *, learning_rate: float | None = None, reset_schedule: bool = False
) -> TrainingState:
    """The state with another peak learning rate, its schedule at the same place or at its beginning.

    `learning_rate` is the new peak: every rate of the optimizer and of its schedule is scaled by new / old, so groups keep
    their ratios. `reset_schedule` sets the steps of the run to 0 and drops schedule, log and place in the data: warm-up,
    `max_steps` and data count from here. Moments, and their own steps, stay.

    Raises ConfigError for a rate that is no positive number, CheckpointError where the state has no rate to change, or its
    schedule is made of several and is to begin anew.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> import torch
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> model = LlamaForCausalLM(config)
    >>> state = TrainingState.from_model(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    >>> rescheduled(state, learning_rate=5e-4).optimizer.groups[0].options["lr"]
    0.0005
    """
    if learning_rate is not None:
        state = _with_peak(state, learning_rate)
    return _at_the_beginning(state) if reset_schedule else state


def has_ended(records: Mapping[str, Any]) -> bool:
    """Whether a run's own schedule, or its Trainer, was at its last step: from there on the rate mostly is 0.

    >>> has_ended({"trainer": {"global_step": 20, "max_steps": 20}}), has_ended({"trainer": {}}), has_ended({})
    (True, False, False)
    """
    ends = (("trainer", "global_step", "max_steps"), ("schedule", "tokens", "total_tokens"))
    for name, done, whole in ends:
        record = records.get(name)
        if isinstance(record, Mapping):
            here, end = record.get(done), record.get(whole)
            if isinstance(here, int) and isinstance(end, int) and 0 < end <= here:
                return True
    return False


def _with_peak(state: TrainingState, peak: float) -> TrainingState:
    if not (peak > 0 and math.isfinite(peak)):
        raise ConfigError("the learning rate is not a positive number", got=peak)
    if state.optimizer is None:
        raise CheckpointError(
            "the state has no optimizer, so no learning rate to change",
            fix="set the rate where you train; a checkpoint of weights alone does not hold one",
        )
    groups = state.optimizer.groups
    before = max(float(next(filter(None, map(one.options.get, _PEAKS)), 0.0)) for one in groups)
    if not before > 0:
        raise CheckpointError("the optimizer's learning rate is 0, which nothing scales", got=before)
    factor = peak / before
    scaled = [ParamGroup(group.names, _scaled(group.options, factor)) for group in groups]
    records = {
        name: _scaled(record, factor) if name in ("scheduler", "schedule") else record
        for name, record in state.records.items()
    }
    return replace(state, optimizer=OptimizerInfo(state.optimizer.name, tuple(scaled)), records=records)


def _scaled(value: Any, factor: float, rate: bool = False) -> Any:
    """The same options with every rate times the factor, however deep it stands."""
    if isinstance(value, Mapping):
        return {name: _scaled(one, factor, name in _RATES) for name, one in value.items()}
    if isinstance(value, list):
        return [_scaled(one, factor, rate) for one in value]
    return (
        value * factor if rate and isinstance(value, int | float) and not isinstance(value, bool) else value
    )


def _at_the_beginning(state: TrainingState) -> TrainingState:
    if isinstance(schedule := state.records.get("scheduler"), dict) and "_schedulers" in schedule:
        raise CheckpointError(
            "a schedule that is made of several (SequentialLR, ChainedScheduler) is not set back to its beginning",
            got=f"{len(schedule['_schedulers'])} schedules in one",
            fix="grow without --reset-schedule: it goes on; or with --format hub, and optimizer and schedule begin anew",
        )
    dropped = ("scheduler", "schedule", "data", "run", "trainer")
    records = {name: record for name, record in state.records.items() if name not in dropped}
    fresh: dict[str, Any] = {"run": {"step": 0}}
    if isinstance(old := state.records.get("trainer"), dict):
        kept = {name: old[name] for name in _INTERVALS if name in old}
        fresh = {"trainer": {**trainer_state(None, 0), **kept}}
    optimizer = state.optimizer
    if optimizer is not None:  # the rate of the first step is the group's own
        groups = tuple(
            ParamGroup(one.names, {**one.options, "lr": one.options.get("initial_lr", one.options.get("lr"))})
            for one in optimizer.groups
        )
        optimizer = OptimizerInfo(optimizer.name, groups)
    unread = tuple(one for one in state.unread if one.part != "schedule")
    return replace(state, records={**records, **fresh}, optimizer=optimizer, unread=unread)
