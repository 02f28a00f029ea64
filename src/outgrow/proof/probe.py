"""A model without a head is judged by a fixed random one that reads what the small model gave:

    scores = R·h in the small model, R·Gᵀ·h' in the large one        GᵀF = I, so both agree where h' = F·h
    strays = max |h' - F·Gᵀ·h'| / max |h'|                           what R does not see: new units that are no copies

With both zero, h' = F·h: a reader of embeddings finds the small model's, each unit as often as the maps say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import ArchitectureError, near
from outgrow.growth.plan import GrowthPlan
from outgrow.models.model import Model

CLASSES = 29
"""Scores of the random head; loss and gradients are those of a cross-entropy of them."""


def probe_small(model: nn.Module, small: Model) -> None:
    """Give a live model without a head `logits` and a `loss`; nothing happens to one that has a head."""
    _probe(model, _heads(small))


def probe_large(model: nn.Module, plan: GrowthPlan) -> None:
    """The same for the model that it became, whose head reads the old units alone."""
    axes, outputs = plan.compensation.axes, plan.small.spec.outputs
    _probe(
        model,
        {name: axes[outputs[name]].backward.apply(head, 1) for name, head in _heads(plan.small).items()},
    )


def strays(model: nn.Module, plan: GrowthPlan, inputs: Mapping[str, Tensor]) -> float:
    """How much of a large model's outputs is no copy of old units; 0.0 where a head reads them."""
    worst = 0.0
    with torch.no_grad():
        found = model(**inputs) if plan.small.spec.outputs else None
    for name, axis in plan.small.spec.outputs.items():
        maps, hidden = plan.compensation.axes[axis], output_of(found, name)
        last = hidden.dim() - 1
        copied = maps.forward.apply(maps.backward.transposed(hidden, last), last)
        worst = max(worst, float((hidden - copied).abs().max() / hidden.abs().max()))
    return worst


def output_of(found: Any, name: str) -> Tensor:
    """An output of a model by its name; ArchitectureError where the file of its type names one that it does not give."""
    given = {one: value for one, value in found.items() if isinstance(value, Tensor)}
    if name not in given:
        raise ArchitectureError(
            f"the model gives no output '{name}'",
            expected=near(name, given),
            fix="correct `outputs` in its architecture file",
        )
    return given[name]


def _heads(small: Model) -> dict[str, Tensor]:
    """A random matrix (classes, units) for every output of a model without a head."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(CLASSES, small.sizes[axis], generator=generator, dtype=torch.float64)
        / small.sizes[axis] ** 0.5
        for name, axis in small.spec.outputs.items()
    }


def _probe(model: nn.Module, heads: Mapping[str, Tensor]) -> None:
    if not heads:
        return

    def unlabelled(
        module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return arguments, {name: value for name, value in keywords.items() if name != "labels"}

    def scored(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        outputs = [(output_of(output, name), head) for name, head in heads.items()]
        scores = [one @ head.to(one).T for one, head in outputs]
        logits = torch.cat([one.flatten(0, -2) for one in scores])
        targets = torch.arange(len(logits), device=logits.device) * 7 % CLASSES
        output.logits, output.loss = logits, nn.functional.cross_entropy(logits, targets)

    model.register_forward_pre_hook(unlabelled, with_kwargs=True)
    model.register_forward_hook(scored)
