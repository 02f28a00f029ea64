"""Planning costs what units cost, not what matrices do: sizes of real models, without a tensor larger than an axis.

largest tensor  <=  2 (d + D)        coordinates of a product of two one-hot maps, of the longest dimension
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from battery.zoo import CONFIGS
from outgrow.errors import GrowthError
from outgrow.growth.growth_cost import growth_cost
from outgrow.growth.multipliers import multipliers
from outgrow.growth.new_entries import new_entries
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import WIDTH, build
from outgrow.models.architecture import resolve

LLAMA_70B = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
}
TO_140B = {
    "hidden_size": 16384,
    "intermediate_size": 57344,
    "num_hidden_layers": 160,
    "num_attention_heads": 128,
    "num_key_value_heads": 16,
    "vocab_size": 131072,
}


class Largest(TorchDispatchMode):
    """The most numbers that any tensor holds that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                self.numel = max(self.numel, one.untyped_storage().nbytes() // max(1, one.itemsize))
        return made


def full(model_type: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    config = transformers.AutoConfig.for_model(model_type, **sizes).to_dict()
    return {**config, "architectures": [resolve(config).spec.class_]}


def longest(config: Mapping[str, Any]) -> int:
    model = resolve(config)
    return max(size for name in model.parameters for size in model.shape(name))


def tensors(value: object, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor that a plan holds, once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from tensors(getattr(value, one.name), seen)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one, seen)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one, seen)


def planned(config: Mapping[str, Any], to: Mapping[str, int], width: str) -> tuple[GrowthPlan, int]:
    """The plan and all that is asked of it before any work, and the most numbers in a tensor on the way."""
    with Largest() as largest:
        made = plan(build(resolve(config), to, width=width, noise=0.1))
        made.describe()
        growth_cost(made)
        new_entries(made)
        with suppress(GrowthError):  # most operators have copies of unequal weight, or none
            multipliers(made)
    return made, largest.numel


@pytest.mark.parametrize("width", sorted(WIDTH))
def test_a_70b_growth_is_planned_without_a_matrix(width: str) -> None:
    """Whatever an axis is asked takes as many numbers as it has units; and layers share what they have in common."""
    layers = 80 if width == "pad" else 3
    sizes, to = {**LLAMA_70B, "num_hidden_layers": layers}, {**TO_140B, "num_hidden_layers": 2 * layers}
    if width == "sparkling":  # it leaves heads alone
        sizes, to = (
            {**sizes, "num_key_value_heads": 64},
            {**to, "num_key_value_heads": 64, "num_attention_heads": 64},
        )
    config = full("llama", sizes)
    made, largest = planned(config, to, width)
    small, large = longest(config), longest(made.config)
    assert largest <= 2 * (small + large)
    held = sum(one.untyped_storage().nbytes() for one in tensors(dict(made.recipes), set()))
    dims = {dim for one in made.large.parameters.values() for dim in one.signature.dims}
    parts = 1 + max((len(parts) for parts in made.growth.parts.values()), default=0)
    laws = 3  # of weights, of moments, of second moments
    maps, unit = (
        2,
        8 + 8 + 2,
    )  # F and G or the mean of new tokens; of each unit its source, its weight and two flags
    assert held <= len(dims) * parts * laws * maps * unit * large


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_architecture_is_planned_with_a_matrix(name: str) -> None:
    """The longest dimension of each model made long, where a matrix of it would show."""
    sizes = dict(CONFIGS[name])
    model_type = sizes.pop("model_type")
    long = next(key for key in ("n_inner", "moe_intermediate_size", "intermediate_size") if key in sizes)
    config = full(model_type, {**sizes, long: 50 * sizes[long]})
    for width in ("pad", "isometric"):
        made, largest = planned(config, {long: 100 * sizes[long]}, width)
        assert largest <= 2 * (longest(config) + longest(made.config))
