"""What every width operator shares: which axes it is asked about, whole heads, rotary pairs, and words for refusals.

operator = a rule per axis (how many copies, how they share)  +  a map of whole heads
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from outgrow.algebra.axes import Raw, Sum
from outgrow.algebra.maps import AxisMap, copies, copy_index, identity, padding, resampled
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, no_layers, no_width
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import AxisSpec

Index = Callable[[str, int, int], Tensor]
"""(axis, before, after) -> which old unit each new unit copies."""


class AxisRule(Protocol):
    """How an operator grows one axis."""

    def __call__(self, name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap: ...


def cyclic(name: str, before: int, after: int) -> Tensor:
    """Unit r copies r mod d, whatever the axis."""
    return copy_index(before, after)


def grow_width(
    small: Model,
    large: Model,
    rule: AxisRule,
    heads: dict[str, AxisMap],
    seed: int,
    noise: float,
) -> Growth:
    """The growth in which `rule` maps every free axis that grows, and whole heads follow `heads`."""
    axes = no_width(small) | heads
    for name, spec in small.axes.items():
        if spec.is_lookup:
            axes[name] = padding(small.sizes[name], large.sizes[name], fresh="writers")
        elif spec.is_places:
            axes[name] = padding(small.sizes[name], large.sizes[name], fresh="readers")
        elif spec.is_grid:
            axes[name] = resampled(small.sizes[name], large.sizes[name])
        elif (
            spec.can_grow
            and not (spec.is_normed or spec.is_heads)
            and spec.like is None
            and small.sizes[name] != large.sizes[name]
        ):
            axes[name] = rule(name, spec, small, large)
    return Growth(small, large, axes, no_layers(small), noise, seed)


def as_given(growth: Growth, gains: dict[str, AxisMap]) -> Growth:
    """The growth with nothing compensated: norms and twins grow as what they follow, gains by `gains`."""
    axes, specs = dict(growth.axes), growth.small.axes
    for name, spec in specs.items():
        if spec.like is not None:
            axes[name] = axes[spec.like]
    for name, spec in specs.items():
        if spec.is_normed:
            axes[name] = axes[str(spec.of)]
    scaled = (name for name, spec in specs.items() if spec.of is not None or growth.small.is_scaled(name))
    found = {name: gains.get(name, axes[name]) for name in scaled}
    return replace(growth, axes=axes, gains=found)


def attention_axis(name: str, spec: AxisSpec, small: Model, large: Model, *, power: float) -> AxisMap:
    """Queries and keys. Rotary: every pair copied to k neighbours on the query side, keys zero but at the old frequency."""
    before, after = small.sizes[name], large.sizes[name]
    rotary = spec.rotary or any(other.of == name and other.rotary for other in small.axes.values())
    if not rotary:
        index = copy_index(before, after)
        if small.is_query(name):
            return copies(index, before, forward_power=power)
        return copies(index, before, forward_power=1 - power)
    places = rotary_places(name, before, after)
    if spec.is_contracted and not small.is_query(name):
        return padding(before, after, fresh="readers", places=places)
    pairs = torch.arange(before // 2).repeat_interleave(after // before)
    return copies(torch.cat([pairs, pairs + before // 2]), before)


def rotary_places(name: str, before: int, after: int) -> Tensor:
    """Where old dimension i goes so that its pair keeps its frequency: pair i -> pair k·i (half-split layout)."""
    if after % before or before % 2:
        raise GrowthError(
            f"axis '{name}' (head_dim) turns in rotary pairs and can only grow by a whole factor",
            got=f"{before} to {after}",
            fix=f"choose head_dim {multiples(before, after)}, or keep head_dim and add heads",
        )
    factor, pairs = after // before, torch.arange(before // 2)
    return torch.cat([pairs * factor, after // 2 + pairs * factor])


def has_layer_norm(model: Model) -> bool:
    """Whether any norm centres its input."""
    return any(spec.norm == "layer" for spec in model.axes.values())


def multiples(before: int, after: int) -> str:
    """The nearest sizes that are whole factors, in words.

    >>> multiples(24, 60)
    '48 or 72'
    """
    low = max(after // before, 1) * before
    return f"{low} or {low + before}" if low > before else f"{low + before}"


def head_axes(model: Model) -> list[str]:
    """Axes of whole heads."""
    return [name for name, spec in model.axes.items() if spec.is_heads]


def copied_heads(small: Model, large: Model, index: Index = cyclic) -> dict[str, AxisMap]:
    """Whole heads copied. Query heads stand in groups under their key/value head, and follow it."""

    def copied(name: str) -> AxisMap:
        before, after = small.sizes[name], large.sizes[name]
        return copies(index(name, before, after), before)

    if "group" not in small.axes or large.sizes["group"] >= small.sizes["group"]:
        return {name: copied(name) for name in head_axes(small)}
    before, after = small.sizes["group"], large.sizes["group"]
    others = {name: copied(name) for name in head_axes(small) if name not in ("kv_heads", "group")}
    kv = copied("kv_heads")
    if any("group" in _summed(one) for one in small.parameters.values()):
        raise GrowthError(
            f"{small.spec.model_type} stores the query heads of a group side by side: they cannot be dealt out to more"
            f" key/value heads",
            fix="raise num_attention_heads with the key/value heads",
        )
    return {**others, "kv_heads": kv, "group": identity(before), "kv_heads group": _dealt(kv, before, after)}


def _summed(parameter: Parameter) -> set[str]:
    """Axes that stand in a sum inside a product."""
    sums = (
        atom
        for dim in parameter.signature.dims
        for block in dim.blocks
        for atom in block
        if isinstance(atom, Sum)
    )
    return {
        name
        for one in sums
        if not isinstance(one, Raw)
        for block in one.blocks
        for name in block
        if isinstance(name, str)
    }


def growing(small: Model, large: Model) -> dict[str, tuple[int, int]]:
    """Axes that an operator is asked to grow, tokens apart: (before, after)."""
    return {
        name: (size, large.sizes[name])
        for name, size in small.sizes.items()
        if small.axes[name].can_grow and not small.axes[name].is_table and large.sizes[name] != size
    }


def refuse_head_dim(small: Model, large: Model, operator: str) -> None:
    """Refuse to grow queries, keys and values inside a head: `operator` adds whole heads."""
    for name in growing(small, large):
        if small.axes[name].inside_head or small.axes[name].is_linear:
            raise GrowthError(
                f"{operator} keeps head_dim: it adds whole heads, and axis '{name}' ({small.axes[name].size}) would grow",
                got=f"{small.sizes[name]} to {large.sizes[name]}",
                expected=small.sizes[name],
                fix="keep head_dim and add heads, or use isometric, duplicate or pad",
            )


def refuse_fewer_queries(small: Model, large: Model, operator: str) -> None:
    """Refuse to deal query heads out anew: under `operator` every old one keeps its key/value head."""
    if large.sizes.get("group", 0) < small.sizes.get("group", 0):
        raise GrowthError(
            f"{operator} cannot give key/value heads fewer query heads: every old query head keeps its key/value head",
            fix="use isometric or duplicate, or raise num_attention_heads with num_key_value_heads",
        )


def _dealt(kv: AxisMap, before: int, after: int) -> AxisMap:
    """Fewer query heads per key/value head: the old group's heads are dealt out to its copies in turn."""
    sources = kv.forward.as_gather().index.tolist()
    dealt: dict[int, int] = {}
    index = []
    for source in sources:
        for _ in range(after):
            index.append(source * before + dealt.get(source, 0) % before)
            dealt[source] = dealt.get(source, 0) + 1
    if any(count < before for count in dealt.values()):
        raise GrowthError(
            "key/value heads do not follow their query heads: some query head would be lost",
            got=f"{before} query heads per key/value head before, {after} after, {kv.small} to {kv.large} key/value heads",
            fix="raise num_attention_heads, or choose num_key_value_heads as a multiple of the old number",
        )
    return copies(torch.tensor(index), kv.small * before)
