"""The state of a live optimizer under parameter names: read without a copy, and filled again.

Which tensors an optimizer keeps, and for which parameter, is in `rules`; what does not fit is an error before anything
is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from outgrow.algebra.slots import MOMENTS, SLOTS
from outgrow.errors import CheckpointError
from outgrow.parallel.pieces import fill
from outgrow.store.contents import OptimizerInfo, ParamGroup, has_moments
from outgrow.store.optimizer_file import option
from outgrow.store.optimizer_rules import Rule, check_entry, name_of, rule_named
from outgrow.store.source import TensorSource


@dataclass(frozen=True)
class LiveState:
    """What a live optimizer holds: its groups, its moments by slot and name, its step counts by name."""

    info: OptimizerInfo
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)


def read_optimizer(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> LiveState:
    """The state of an optimizer over all of `parameters`; the tensors are its own."""
    placed = _placed(parameters, optimizer)
    groups = tuple(
        ParamGroup(
            tuple(name for name, (_, owner) in placed.items() if owner is group),
            {key: option(value) for key, value in group.items() if key not in ("params", "param_names")},
        )
        for group in optimizer.param_groups
    )
    info = OptimizerInfo(name_of(optimizer), groups)
    if not any(optimizer.state.get(parameter) for parameter in parameters.values()):
        return LiveState(info)
    moments: dict[str, dict[str, Tensor]] = {}
    steps: dict[str, float] = {}
    for name, parameter in parameters.items():
        if name not in placed:
            continue  # frozen
        rule, group = placed[name]
        slots = rule.slots(tuple(parameter.shape), group)
        entry = optimizer.state.get(parameter)
        if not entry:  # never had a gradient: what the optimizer would start from
            zeros = {
                slot: _empty(parameter, SLOTS[slot].shape(tuple(parameter.shape))).zero_() for slot in slots
            }
            entry = zeros | ({"step": 0} if rule.counts else {})
        check_entry("", name, rule, slots, entry)
        for slot in slots:
            moments.setdefault(slot, {})[name] = entry[slot].detach()
        if rule.counts:
            steps[name] = float(entry["step"])
    return LiveState(info, moments, steps)


def make_optimizer(
    make: Callable[..., torch.optim.Optimizer], parameters: Mapping[str, Tensor], info: OptimizerInfo
) -> torch.optim.Optimizer:
    """A new optimizer over these parameters, with the groups and options that `info` says."""
    groups = [
        {
            "params": [parameters[name] for name in in_model_order(group.names, parameters)],
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in group.options.items()
            },
        }
        for group in info.groups
    ]
    try:
        return make(groups)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the optimizer cannot be made with the options of the state's {info.name}",
            got=error,
            fix="make one yourself, and use load_into(model, optimizer)",
        ) from error


def in_model_order(names: Iterable[str], parameters: Mapping[str, Tensor]) -> list[str]:
    """Names in the order of the model's parameters: torch numbers them, and an optimizer made anew has this order."""
    place = {name: number for number, name in enumerate(parameters)}
    return sorted(names, key=place.__getitem__)


def check_optimizer(
    source: TensorSource,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    saved: OptimizerInfo,
) -> None:
    """An error unless the saved state is this optimizer's, with the same slots for every parameter."""
    held = {slot: frozenset(source.names(slot)) for slot in MOMENTS}
    stepped = any(held.values())
    saved_rules = saved.rules()
    for name, (rule, group) in _placed(parameters, optimizer).items():
        if name not in saved_rules:
            continue  # it was frozen: no moments are kept, and it begins as new
        wanted = rule.slots(tuple(parameters[name].shape), group) if stepped else ()
        found = tuple(slot for slot in MOMENTS if name in held[slot])
        if not saved_rules[name].is_like(rule) or sorted(wanted) != sorted(found):
            raise CheckpointError(
                f"the state was trained with {saved_rules[name].name}, this optimizer is {rule.name}",
                got=f"{rule.name}, which keeps {', '.join(wanted) or 'no moments'} of {name}",
                expected=f"{saved_rules[name].name}, of which the state has {', '.join(found) or 'no moments'}",
                fix="use the same optimizer with the same groups, or the weights alone, as the format hub keeps them",
            )


def fill_optimizer(
    source: TensorSource,
    steps: Mapping[str, float],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Copy moments and steps into an optimizer that `check_optimizer` has accepted."""
    stepped = has_moments(source)
    held = {name for slot in MOMENTS for name in source.names(slot)}
    for name, (rule, group) in _placed(parameters, optimizer).items():
        parameter = parameters[name]
        slots = rule.slots(tuple(parameter.shape), group) if stepped else ()
        if not slots or name not in held:
            optimizer.state.pop(parameter, None)
            continue
        on_device = group.get("fused") or group.get("capturable")
        entry: dict[str, Any] = {}
        if rule.counts:
            entry["step"] = rule.step(steps[name], parameter.device if on_device else torch.device("cpu"))
        for slot in slots:
            entry[slot] = _empty(parameter, source.meta(name, slot).shape)
            fill(source, name, slot, entry[slot])
        entry |= dict.fromkeys(rule.ignored, 0)
        optimizer.state[parameter] = entry


def _empty(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory for a slot of this shape: as the parameter lies, cut among ranks as it is, where the shapes are equal."""
    if shape == tuple(parameter.shape):
        return torch.empty_like(parameter.detach(), memory_format=torch.preserve_format)
    return parameter.detach().new_empty(shape)


def _placed(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, tuple[Rule, dict[str, Any]]]:
    """Name -> (rule, group) of every parameter, in the optimizer's order; an error unless it holds all but frozen ones."""
    optimizer_name = name_of(optimizer)
    found = {
        name: (rule_named(optimizer_name, group), group) for group, name in _grouped(parameters, optimizer)
    }
    wrong = sorted(name for name in set(parameters) - set(found) if parameters[name].requires_grad)
    if wrong:
        raise CheckpointError(
            "the optimizer does not hold all parameters of the model", got=", ".join(wrong[:5])
        )
    return found


def _grouped(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[dict[str, Any], str]]:
    """(group, name) of every parameter in the optimizer."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                fix = "build the optimizer from model.parameters(), after the model has its final device and dtype"
                raise CheckpointError("the optimizer holds a parameter that is not the model's", fix=fix)
            yield group, names[id(parameter)]
