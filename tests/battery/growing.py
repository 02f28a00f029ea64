"""Growing a live model through `GrownView`, and comparing its gradients with the law G_o g F_iᵀ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from battery import zoo
from outgrow.algebra.slots import Moments
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import WIDTH, build
from outgrow.state.grown_view import GrownView
from outgrow.store.source import MemorySource

Sizes = Mapping[str, int]

_GPT2: dict[str, Sizes] = {
    "double": {"hidden_size": 48, "num_attention_heads": 8, "n_inner": 80, "n_layer": 6},
    "triple": {"hidden_size": 72, "num_attention_heads": 12, "n_inner": 120},
    "mlp double": {"n_inner": 80, "n_layer": 4},
    "head_dim": {"hidden_size": 48, "num_attention_heads": 4, "n_inner": 43, "n_layer": 5},
    "mlp odd": {"n_inner": 47, "n_layer": 4},
    "heads": {"hidden_size": 36, "num_attention_heads": 6, "n_inner": 52, "n_layer": 5},
    "odd": {"hidden_size": 35, "num_attention_heads": 5, "n_inner": 47, "n_layer": 4},
}
_BERT: dict[str, Sizes] = {
    "double": {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "num_hidden_layers": 6},
    "triple": {"hidden_size": 72, "num_attention_heads": 12, "intermediate_size": 120},
    "mlp double": {"intermediate_size": 80, "num_hidden_layers": 4},
    "heads": {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 53, "num_hidden_layers": 5},
    "whole heads": {"hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 52},
    "mlp odd": {"intermediate_size": 47},
    "mlp odd, deep": {"intermediate_size": 53, "num_hidden_layers": 7},
}
_LLAMA: dict[str, Sizes] = {
    "double": {
        "hidden_size": 48,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 80,
        "num_hidden_layers": 6,
    },
    "group": {"hidden_size": 72, "num_attention_heads": 8, "intermediate_size": 80},
    "mlp double": {"intermediate_size": 80, "num_hidden_layers": 4},
    "odd": {
        "hidden_size": 42,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 53,
        "num_hidden_layers": 5,
    },
    "head_dim": {"hidden_size": 28, "head_dim": 16, "intermediate_size": 43},
    "group odd": {"hidden_size": 36, "num_attention_heads": 6, "num_hidden_layers": 4},
    "twins": {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "num_hidden_layers": 4},
    "mlp odd": {"intermediate_size": 47, "num_hidden_layers": 4},
    "heads odd": {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 47},
    "stream double": {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4},
    "stream odd": {"hidden_size": 40, "intermediate_size": 53, "num_hidden_layers": 4},
    "kv": {"num_key_value_heads": 4, "num_hidden_layers": 4},
}
_NAMES = {"n_inner": "intermediate_size", "n_layer": "num_hidden_layers"}
_VIT = {which: {_NAMES.get(name, name): size for name, size in to.items()} for which, to in _GPT2.items()}
_NEOX: dict[str, Sizes] = {
    "double": {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 80, "num_hidden_layers": 6},
    "triple": {"hidden_size": 72, "num_attention_heads": 9, "intermediate_size": 120},
    "mlp double": {"intermediate_size": 80, "num_hidden_layers": 4},
    "mlp odd": {"intermediate_size": 47, "num_hidden_layers": 4},
    "heads": {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 47, "num_hidden_layers": 5},
}
SHAPES: dict[str, dict[str, Sizes]] = {
    "gpt2": _GPT2,
    "neox": _NEOX,
    "bert": _BERT,
    "llama": _LLAMA,
    "vit": _VIT,
}

EXACT: dict[tuple[str, str], tuple[str, ...]] = {
    # Every shape here must keep the function. Odd streams: not under LayerNorm by copies, not after the sum by padding.
    ("isometric", "gpt2"): ("double", "head_dim", "mlp odd"),
    ("isometric", "vit"): ("double", "head_dim", "mlp odd"),
    ("isometric", "neox"): ("double", "mlp odd"),
    ("isometric", "bert"): ("double", "heads", "mlp odd"),
    ("isometric", "llama"): ("double", "odd", "head_dim", "group odd", "kv"),
    ("duplicate", "gpt2"): ("double", "triple", "mlp double"),
    ("duplicate", "vit"): ("double", "triple", "mlp double"),
    ("duplicate", "neox"): ("double", "triple", "mlp double"),
    ("duplicate", "bert"): ("double", "triple", "mlp double"),
    ("duplicate", "llama"): ("double", "group", "mlp double", "kv"),
    ("pad", "gpt2"): ("double", "head_dim", "heads", "odd"),
    ("pad", "vit"): ("double", "head_dim", "heads", "odd"),
    ("pad", "neox"): ("double", "heads"),
    ("pad", "bert"): ("mlp double", "mlp odd", "mlp odd, deep"),
    ("pad", "llama"): ("double", "odd", "head_dim", "group odd"),
    ("staged", "gpt2"): ("double", "triple", "mlp double"),
    ("staged", "bert"): ("double", "triple", "mlp double"),
    ("staged", "llama"): ("double", "twins", "mlp double"),
    ("net2net", "gpt2"): ("mlp odd",),
    ("net2net", "bert"): ("mlp odd",),
    ("net2net", "llama"): ("heads odd",),
    ("lemon", "gpt2"): ("double", "heads"),
    ("lemon", "bert"): ("double", "mlp odd"),
    ("lemon", "llama"): ("odd", "mlp double"),
    ("hypercloning", "gpt2"): ("double",),
    ("hypercloning", "bert"): ("double",),
    ("hypercloning", "llama"): ("double",),
    ("hypercloning:variant=diagonal", "gpt2"): ("double",),
    ("hypercloning:variant=diagonal", "llama"): ("twins",),
    ("sparkling", "gpt2"): ("mlp double",),
    ("sparkling", "bert"): ("mlp double",),
    ("sparkling", "llama"): ("stream double",),
    ("sparkling:factor=exact", "gpt2"): ("mlp odd",),
    ("sparkling:factor=exact", "llama"): ("mlp odd",),
    ("upscale", "gpt2"): ("double",),
    ("upscale", "bert"): ("double",),
    ("upscale", "llama"): ("double",),
}
COPYING = ("stack", "interleave", "identity")
"""Depth operators of copies alone: one sounding family, one silent; the others are lists of layers like these."""
DIVISIBLE_IN_NO_AXIS = {"gpt2": "odd", "vit": "odd", "llama": "odd"}
INEXACT: dict[tuple[str, str], tuple[str, ...]] = {
    # Every shape here must change the function, and the plan must say so.
    ("net2net", "llama"): ("odd",),
    ("net2net", "gpt2"): ("heads",),
    ("net2net:visible=0.5", "gpt2"): ("mlp odd",),
    ("net2net:visible=0.5", "llama"): ("mlp odd",),
    ("aki", "gpt2"): ("heads", "mlp odd"),
    ("aki", "bert"): ("whole heads",),
    ("aki", "llama"): ("odd",),
    ("msg", "gpt2"): ("heads",),
    ("msg", "bert"): ("whole heads",),
    ("msg", "llama"): ("odd",),
    ("sparkling", "gpt2"): ("mlp odd",),
    ("sparkling", "llama"): ("stream odd",),
    ("sparkling:fan_in=zero", "llama"): ("stream double",),
    ("sparkling:fan_in=random", "llama"): ("stream odd",),
    ("upscale:perturb=0.5", "gpt2"): ("double",),
    ("upscale:perturb=0.5", "llama"): ("double",),
    ("szp", "gpt2"): ("heads",),
    ("szp", "bert"): ("whole heads",),
    ("szp", "llama"): ("odd",),
}
BASE = ("isometric", "duplicate", "pad")
"""Operators that are tried on every model of the zoo; the others on one model of each kind."""
SAMPLE = ("gpt2", "bert", "llama-tied-bias", "qwen3", "mixtral")
"""Pre-norm LayerNorm, post-norm LayerNorm, RMSNorm with a tied head, query and key norms."""


def cases(table: Mapping[tuple[str, str], tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """(model, operator, shape) of every row of EXACT or INEXACT, on the models that try it."""
    return [
        (name, width, which)
        for (width, family), shapes in table.items()
        for name in (zoo.CONFIGS if width in BASE else SAMPLE)
        if zoo.family(name) == family
        for which in shapes
    ]


def pairs() -> list[tuple[str, str]]:
    """(model, operator) for what every operator does at any size."""
    return [(name, width) for width in WIDTH for name in (zoo.CONFIGS if width in BASE else SAMPLE[:3])]


def usual(width: str, family: str) -> str:
    """A shape that an operator can do on a family."""
    return ({**INEXACT, **EXACT}[width, family])[0]


def shape(name: str, which: str) -> dict[str, int]:
    """Sizes to grow a zoo model to. Qwen2 begins 8 channels wider than the other Llamas."""
    sizes = dict(SHAPES[zoo.family(name)][which])
    if name == "qwen2" and "hidden_size" in sizes:
        even = sizes["hidden_size"] % 24 == 0
        sizes["hidden_size"] = sizes["hidden_size"] // 24 * 32 if even else sizes["hidden_size"] + 11
    return sizes


def deeper(name: str, which: str, layers: int) -> dict[str, int]:
    """The same sizes with another number of layers."""
    return {**shape(name, which), zoo.resolved(name).spec.layers.count: layers}


def planned(
    name: str,
    to: Mapping[str, int],
    *,
    width: str = "isometric",
    depth: str = "identity",
    moments: Moments = "transport",
    **options: Any,
) -> GrowthPlan:
    """The plan of one growth of a zoo model."""
    return plan(build(zoo.resolved(name), to, width=width, depth=depth, **options), moments)


def planned_moments(like: GrowthPlan, moments: Moments) -> GrowthPlan:
    """The same growth with its moments grown in another way."""
    return plan(like.growth, moments)


def view(plan: GrowthPlan, **slots: Mapping[str, Tensor]) -> GrownView:
    """`GrownView` of tensors in memory: `view(plan, weight=..., exp_avg=...)`."""
    return GrownView(plan, MemorySource({slot: dict(tensors) for slot, tensors in slots.items()}))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def grown(plan: GrowthPlan, model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A real model of the plan's config that holds the grown weights of `model`."""
    large = zoo.empty(dict(plan.config)).to(dtype).eval()
    load(large, view(plan, weight=weights(model)))
    return large


def load(model: nn.Module, source: GrownView) -> None:
    """Copy grown weights into a model: the same names and shapes, none missing."""
    parameters = dict(model.named_parameters())
    assert set(parameters) == set(source.names("weight"))
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = source.read(name, "weight")
            assert value.shape == parameter.shape, name
            parameter.copy_(value)


def law_errors(
    plan: GrowthPlan, small: Mapping[str, Tensor], large: Mapping[str, Tensor], *, floor: float
) -> dict[str, float]:
    """Relative distance of every gradient from its transport, over the entries that the transport covers.

    Some gradients are zero in exact arithmetic (a key bias shifts all scores of a query alike) and pure rounding
    in floating point: a tensor's norm counts as at least `floor` times the largest norm of all.
    """
    transported = view(plan, exp_avg=small)
    least = floor * max(float(gradient.norm()) for gradient in small.values())
    errors = {}
    for name, gradient in large.items():
        if plan.recipes["exp_avg"][name].terms:
            expected = transported.read(name, "exp_avg")
            wrong = (gradient - expected)[covered(plan, name)].norm()
            errors[name] = float(wrong) / max(float(expected.norm()), least)
    return errors


def covered(plan: GrowthPlan, name: str, slot: str = "exp_avg") -> Tensor:
    """bool, the tensor's shape: entries that come from an old entry. Others have no law; they are new."""
    recipe = plan.recipes[slot][name]
    mask = torch.ones(recipe.shape, dtype=torch.bool)
    for dim, map_ in enumerate(recipe.terms[0].maps):
        view_ = [1] * len(recipe.shape)
        view_[dim] = -1
        mask &= map_.covered().view(view_)
    return mask
