"""What the readers of all formats hand over, and how an optimizer is told about its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from outgrow.algebra.slots import MOMENTS
from outgrow.store.optimizer_rules import Rule, rule_named
from outgrow.store.source import TensorSource


@dataclass(frozen=True)
class ParamGroup:
    """Parameters, by name, that share their options: lr, betas, eps, weight_decay ... (JSON values)."""

    names: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class OptimizerInfo:
    """The optimizer's class and its groups."""

    name: str
    groups: tuple[ParamGroup, ...]

    def rules(self) -> dict[str, Rule]:
        """What is kept for each parameter."""
        return {name: rule_named(self.name, group.options) for group in self.groups for name in group.names}

    def slots(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
        """The slots of every parameter, once the optimizer has stepped."""
        owners = {name: group for group in self.groups for name in group.names}
        return {
            name: rule_named(self.name, owners[name].options).slots(shape, owners[name].options)
            for name, shape in shapes.items()
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
class Contents:
    """A training state as read from a folder, without its config."""

    source: TensorSource
    steps: dict[str, float] = field(default_factory=dict)
    optimizer: OptimizerInfo | None = None
    records: dict[str, Any] = field(default_factory=dict)
    lineage: tuple[dict[str, Any], ...] = ()
    checksums: Mapping[str, int] = field(default_factory=dict)
    """CRC-32 of the files whose tensors `source` reads, where the format stores them."""


def has_moments(source: TensorSource) -> bool:
    """Whether an optimizer has left anything."""
    return any(source.names(slot) for slot in MOMENTS)
