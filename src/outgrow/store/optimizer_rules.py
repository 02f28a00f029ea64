"""What each optimizer keeps for a parameter: which slots, whether it counts steps, and how its options give it away.

    AdamW, Adam             exp_avg, exp_avg_sq                                              step
    SGD                     momentum_buffer (with momentum)
    Lion                    exp_avg
    Muon                    momentum_buffer
    Adafactor (torch)       row_var, col_var; variance for vectors                           step
    transformers.Adafactor  exp_avg_sq_row, exp_avg_sq_col; exp_avg_sq for vectors           step
                            exp_avg (with beta1)

An optimizer with several rules, one per group, names each group's own in its option `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeGuard

import torch
from torch import Tensor

from outgrow.errors import CheckpointError, near

RULE = "rule"
"""The option that names a group's own rule."""


@dataclass(frozen=True)
class Rule:
    """The state of one optimizer. `marks` are options that this optimizer has and no other of the table."""

    name: str
    matrices: tuple[str, ...]
    vectors: tuple[str, ...]
    counts: bool
    marks: frozenset[str]
    lacks: frozenset[str] = frozenset()
    only_with: Mapping[str, str] | None = None
    """Slots that are kept only where an option is set."""
    ignored: frozenset[str] = frozenset()
    """State that the optimizer works out anew in every step."""

    def slots(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[str, ...]:
        """The slots of a parameter of this shape.

        >>> RULES["SGD"].slots((3, 4), {"momentum": 0.0}), RULES["Adafactor"].slots((3, 4), {})
        ((), ('row_var', 'col_var'))
        """
        needs = self.only_with or {}
        found = self.matrices if len(shape) >= 2 else self.vectors
        return tuple(slot for slot in found if slot not in needs or options.get(needs[slot]))

    def step(self, count: float, device: torch.device) -> Tensor | int:
        """The count as the optimizer holds it."""
        if self.name == "transformers.Adafactor":
            return int(count)
        return torch.tensor(count, dtype=torch.float32, device=device)

    def is_like(self, other: Rule) -> bool:
        """Whether one can go on with the other's state: Adam and AdamW can."""
        return self.name.removesuffix("W") == other.name.removesuffix("W")

    def is_marked(self, options: Mapping[str, Any]) -> bool:
        """Whether options are this optimizer's."""
        return self.marks <= set(options) and not self.lacks & set(options)


_ADAM = ("exp_avg", "exp_avg_sq")
_ADAM_MARKS = frozenset({"betas", "eps", "amsgrad"})
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("AdamW", _ADAM, _ADAM, True, _ADAM_MARKS),
        Rule("Adam", _ADAM, _ADAM, True, _ADAM_MARKS),
        Rule(
            "SGD",
            ("momentum_buffer",),
            ("momentum_buffer",),
            False,
            frozenset({"momentum", "dampening", "nesterov"}),
            only_with={"momentum_buffer": "momentum"},
        ),
        Rule("Lion", ("exp_avg",), ("exp_avg",), False, frozenset({"betas"}), frozenset({"eps"})),
        Rule("Muon", ("momentum_buffer",), ("momentum_buffer",), False, frozenset({"ns_steps"})),
        Rule("Adafactor", ("row_var", "col_var"), ("variance",), True, frozenset({"beta2_decay"})),
        Rule(
            "transformers.Adafactor",
            ("exp_avg", "exp_avg_sq_row", "exp_avg_sq_col"),
            ("exp_avg", "exp_avg_sq"),
            True,
            frozenset({"clip_threshold", "decay_rate", "beta1"}),
            only_with={"exp_avg": "beta1"},
            ignored=frozenset({"RMS"}),
        ),
    )
}

_PACKAGES = ("torch", "transformers", "outgrow", "lion_pytorch")
"""Whose classes these are: bitsandbytes' AdamW is another."""
_CARRIED = "outgrow carries the state of " + ", ".join(RULES) + " (Adam without amsgrad)"


def rule_named(name: str, options: Mapping[str, Any]) -> Rule:
    """The rule of a group: the one that its options name, else that of the optimizer called `name`."""
    wanted = str(options.get(RULE, name))
    if wanted not in RULES:
        raise CheckpointError(
            f"outgrow does not know the optimizer {wanted!r}", expected=near(wanted, RULES), fix=_CARRIED
        )
    if options.get("amsgrad"):
        raise CheckpointError(f"outgrow does not carry amsgrad, which this {wanted} has", fix=_CARRIED)
    return RULES[wanted]


def name_of(optimizer: torch.optim.Optimizer) -> str:
    """What a live optimizer is called here; an error where it is none that outgrow knows.

    >>> name_of(torch.optim.SGD([torch.zeros(2)]))
    'SGD'
    """
    if any(RULE in group for group in optimizer.param_groups):
        return type(optimizer).__name__
    for cls in type(optimizer).__mro__:
        package = cls.__module__.split(".")[0]
        known = ("transformers." if package == "transformers" else "") + cls.__name__
        if package in _PACKAGES and known in RULES:
            return known
    name = type(optimizer).__name__
    raise CheckpointError(
        f"outgrow does not know the optimizer {name!r}", expected=near(name, RULES), fix=_CARRIED
    )


def as_carried(where: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of an optimizer that keeps another's state under other options, as those of the other.

    `transformers.AdamW` (until 4.4x) keeps what torch's AdamW keeps, and does the same step where it corrects the bias.
    """
    if "correct_bias" not in options or "amsgrad" in options:
        return options
    if not options["correct_bias"]:
        raise CheckpointError(
            f"{where} is the state of an AdamW without bias correction",
            got="correct_bias=False",
            fix=_CARRIED,
        )
    rest = {name: value for name, value in options.items() if name != "correct_bias"}
    return {**class_defaults("AdamW"), **rest}


def name_from_options(where: str, options: Mapping[str, Any]) -> str:
    """The optimizer whose options these are, where a file does not name it; an error if they are of none."""
    if RULE in options:
        return rule_named("", options).name
    found = [rule.name for rule in RULES.values() if rule.is_marked(options)]
    if not found:
        raise CheckpointError(
            f"{where} is not the state of an optimizer that outgrow knows",
            got="options " + ", ".join(sorted(map(str, options))),
            fix=_CARRIED,
        )
    if "AdamW" in found:
        return "AdamW" if options.get("decoupled_weight_decay", True) else "Adam"
    return found[0]


def check_entry(where: str, name: str, rule: Rule, slots: tuple[str, ...], entry: Mapping[str, Any]) -> None:
    """An error unless an entry of an optimizer's state holds what its rule keeps, and nothing else."""
    expected = {*slots, *(("step",) if rule.counts else ())}
    found = set(entry) - rule.ignored
    if found != expected:
        raise CheckpointError(
            f"{where}{name} has other state than {rule.name}'s",
            got=", ".join(sorted(map(str, found))) or "nothing",
            expected=", ".join(sorted(expected)) or "nothing",
            fix=_CARRIED,
        )


def step_count(where: str, name: str, value: object) -> float:
    """The steps that an optimizer has counted for a parameter: a number, or a tensor that holds one.

    >>> step_count("optimizer.pt: ", "a", torch.tensor(3.0))
    3.0
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if not is_number(value) or not 0 <= value < 2**53 or value != int(value):
        raise CheckpointError(
            f"{where}the step of {name} is damaged", got=value, expected="a whole number of steps, 0 or more"
        )
    return float(value)


def check_options(options: Mapping[str, Any]) -> None:
    """An error where a group's options are none that its optimizer could have been made with.

    lr, initial_lr, weight_decay, momentum, eps >= 0   0 <= betas, beta1 < 1   all of them finite

    >>> check_options({"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8})
    >>> check_options({"lr": None, "eps": [1e-30, 1e-3], "beta1": None})  # Adafactor has two eps
    """
    for name, (several, most) in _BOUNDED.items():
        several = several and not (name == "eps" and "betas" in options)
        value = options.get(name)
        numbers = list(value) if isinstance(value, list | tuple) and several else [value]
        right = all(one is None or (is_number(one) and 0 <= one < most) for one in numbers)
        if not right or (name == "betas" and value is not None and len(numbers) != 2):
            wanted = "a finite number, 0 or more" if most == inf else "0 or more, and less than 1"
            wanted = "two numbers, " + wanted if name == "betas" else wanted
            raise CheckpointError(f"{name} of an optimizer's group is damaged", got=value, expected=wanted)


_BOUNDED: Mapping[str, tuple[bool, float]] = {
    **dict.fromkeys(("lr", "initial_lr", "weight_decay", "momentum"), (False, inf)),
    "eps": (True, inf),
    "betas": (True, 1.0),
    "beta1": (False, 1.0),
}
"""Options, whether they may be several numbers, and what each is less than."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether this is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def class_defaults(name: str) -> dict[str, Any]:
    """The options that the optimizer's class expects in every group, as its own constructor sets them."""
    makers: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
        "AdamW": torch.optim.AdamW,
        "Adam": torch.optim.Adam,
        "SGD": torch.optim.SGD,
        "Muon": torch.optim.Muon,
        "Adafactor": torch.optim.Adafactor,
    }
    if name not in makers:
        return {}  # a state from such an optimizer has all of its options
    return dict(makers[name]([torch.zeros(1, 1)]).defaults)
