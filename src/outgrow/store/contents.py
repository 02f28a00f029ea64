"""A training state as a value: what every reader hands over and every writer takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from outgrow.algebra.slots import MOMENTS
from outgrow.store.assets import Asset
from outgrow.store.inventory import SourceFile
from outgrow.store.lineage import Lineage
from outgrow.store.optimizer_rules import Rule, check_options, rule_named
from outgrow.store.source import TensorSource


@dataclass(frozen=True)
class ParamGroup:
    """Parameters, by name, that share their options: lr, betas, eps, weight_decay ... (JSON values)."""

    names: tuple[str, ...]
    options: dict[str, Any]

    def __post_init__(self) -> None:
        check_options(self.options)


@dataclass(frozen=True)
class OptimizerInfo:
    """The optimizer's class and its groups."""

    name: str
    groups: tuple[ParamGroup, ...]

    def rules(self) -> dict[str, Rule]:
        """What is kept for each parameter."""
        return {name: rule_named(self.name, group.options) for group in self.groups for name in group.names}

    def slots(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
        """The slots of every parameter that it holds, once it has stepped; it holds no frozen ones."""
        owners = {name: group for group in self.groups for name in group.names}
        return {
            name: rule_named(self.name, owners[name].options).slots(shape, owners[name].options)
            for name, shape in shapes.items()
            if name in owners
        }

    def counted(self) -> frozenset[str]:
        """The parameters whose steps are counted."""
        return frozenset(name for name, rule in self.rules().items() if rule.counts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        groups = [{"names": list(group.names), "options": group.options} for group in self.groups]
        return {"name": self.name, "groups": groups}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> OptimizerInfo:
        """The inverse of `to_json`; KeyError or TypeError where it is something else."""
        groups = (ParamGroup(tuple(group["names"]), dict(group["options"])) for group in content["groups"])
        return cls(str(content["name"]), tuple(groups))


@dataclass(frozen=True)
class Unread:
    """A part of a source that is there and was not read: no hindrance until that part is asked for."""

    file: str
    part: Literal["moments", "schedule"]
    why: str


@dataclass(frozen=True)
class Contents:
    """The fields of a training state. `TrainingState` is the same value with the doors that people use.

    Without an optimizer: `optimizer` is None and the source has weights only. With an optimizer that has not stepped, or
    that keeps nothing (SGD without momentum): `optimizer` is there, and the source has weights only.
    """

    config: dict[str, Any]
    """The content of `config.json`, defaults filled in."""
    source: TensorSource
    steps: dict[str, float] = field(default_factory=dict)
    """Optimizer steps that each parameter has seen, by name, where the optimizer counts them (SGD, Lion, Muon do not)."""
    optimizer: OptimizerInfo | None = None
    records: dict[str, Any] = field(default_factory=dict)
    """JSON: "schedule", "data", "rng", "trainer" (trainer_state.json), "scheduler" (scheduler.pt)."""
    lineage: Lineage = field(default_factory=Lineage)
    """One entry per growth, oldest first."""
    assets: tuple[Asset, ...] = ()
    """Tokenizer files and the like, copied along."""
    files: tuple[SourceFile, ...] = ()
    """Every file of the folder that this comes from, and what it is; none where it comes from live objects."""
    unread: tuple[Unread, ...] = ()
    """What the folder holds beside that, and outgrow cannot carry."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lineage", Lineage(self.lineage))  # any entries in a row, as JSON


def has_moments(source: TensorSource) -> bool:
    """Whether an optimizer has left anything."""
    return any(source.names(slot) for slot in MOMENTS)


def training_step(state: Contents) -> int:
    """Steps of the whole training: as a run's or Trainer's own record says, else as the optimizer has counted."""
    for name, key in (("run", "step"), ("trainer", "global_step")):
        record = state.records.get(name)
        if isinstance(record, dict) and isinstance(record.get(key), int):
            return int(record[key])
    return int(max(state.steps.values(), default=0))
