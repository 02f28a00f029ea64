"""What the oracles share: random states, and grown tensors taken apart by layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.growth.plan import GrowthPlan
from outgrow.state.grown_view import GrownView

SLOTS = ("weight", "exp_avg", "exp_avg_sq")
PREFIXES = {"llama-tied-bias": "model.layers.", "gpt2": "transformer.h."}
BRANCH_ENDS = ("attn.c_proj", "mlp.c_proj", "self_attn.o_proj", "mlp.down_proj")

State = dict[str, dict[str, Tensor]]


def state(name: str) -> State:
    """Weights and moments, random."""
    generator = torch.Generator().manual_seed(11)
    weights = growing.weights(zoo.build(zoo.config(name)))
    return {
        slot: {
            tensor: torch.randn(value.shape, generator=generator, dtype=torch.float64)
            ** (2 if slot == "exp_avg_sq" else 1)
            for tensor, value in weights.items()
        }
        for slot in SLOTS
    }


def deepened(name: str, old: State, depth: str, layers: int, **options: object) -> GrownView:
    """The grown state of a zoo model."""
    plan: GrowthPlan = growing.planned(name, {"num_hidden_layers": layers}, depth=depth, **options)  # type: ignore[arg-type]
    return growing.view(plan, **old)


def in_layers(name: str, view: GrownView, slot: str) -> Iterator[tuple[int, str, Tensor]]:
    """(new layer, name inside it, grown tensor)."""
    for tensor in view.names(slot):
        if tensor.startswith(PREFIXES[name]):
            layer, rest = tensor.removeprefix(PREFIXES[name]).split(".", 1)
            yield int(layer), rest, view.read(tensor, slot)
