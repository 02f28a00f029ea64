"""Growing in width: which units of an axis are copied, and how copies share.

    isometric   unit i copied cᵢ times, each times 1/√cᵢ: FᵀF = I, exact at any width (ours, notes/maths.md 4.8)
    duplicate   every unit copied equally often, readers share (Net2Net, arXiv 1511.05641; HyperCloning, 2409.12903)
    pad         old units kept, new units silent: fresh on the side that keeps the function (arXiv 2308.06103, LEMON 2310.07999)

Units behind a nonlinearity, and whole heads, are copied unscaled by `isometric` too. Keys and queries under rotary
positions move to the pairs that turn at their old frequency.
"""

from __future__ import annotations

from math import sqrt
from typing import Protocol

import torch
from torch import Tensor

from outgrow.architectures import Model
from outgrow.architectures.spec import AxisSpec
from outgrow.constraints import eps_conflict
from outgrow.errors import GrowthError
from outgrow.growth import Growth, no_layers, no_width
from outgrow.linear import Select
from outgrow.maps import AxisMap, copies, copy_index, identity, padding, rescaled
from outgrow.operators.registry import Operator


class AxisRule(Protocol):
    """How an operator grows one axis."""

    def __call__(self, name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap: ...


def isometric(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Copies scaled by 1/√count: F has orthonormal columns and G = F. Keeps the function at any width under RMSNorm.

    Keeps: function, gradient law, singular values. A LayerNorm needs every unit copied equally often.

    >>> from outgrow.architectures import resolve
    >>> from outgrow.growth import target
    >>> small = resolve({"model_type": "llama", "hidden_size": 6, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 10, "vocab_size": 7})
    >>> growth = isometric(small, target(small, {"hidden_size": 9}))
    >>> round(growth.axes["embed"].norm_ratio(), 12)
    1.0
    """
    return _grow(small, large, _isometric_axis, _copied_heads(small, large), seed, noise)


def duplicate(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Every unit of a growing axis copied the same number of times; readers divide their weight among the copies.

    Keeps: function and gradient law, and with the multipliers of `plan.multipliers` the whole AdamW trajectory.
    Raises GrowthError where a size is not a multiple.
    """
    for name, size in small.sizes.items():
        spec = small.axes[name]
        if (
            spec.can_grow
            and spec.through not in ("lookup", "norm")
            and name != "group"
            and large.sizes[name] % size
        ):
            raise GrowthError(
                f"duplicate cannot grow axis '{name}' ({spec.size}) from {size} to {large.sizes[name]}: not a multiple",
                fix=f"use isometric or pad (any size), or choose {_multiples(size, large.sizes[name])}",
            )
    return _grow(small, large, _duplicate_axis, _copied_heads(small, large), seed, noise)


def pad(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Old units stay as they are; new units are fresh where that keeps the function and zero on the other side.

    The stream's new channels are zero under RMSNorm and hold the mean under a pre-norm LayerNorm.
    Keeps: function; the gradient law on old entries (not under LayerNorm). Post-norm LayerNorm cannot be padded.
    Nothing is copied, so there is nothing that `noise` could tell apart: it is left out.
    """
    if large.sizes.get("group", 0) < small.sizes.get("group", 0):
        raise GrowthError(
            "pad cannot give key/value heads fewer query heads: every old query head keeps its key/value head",
            fix="use isometric or duplicate, or raise num_attention_heads with num_key_value_heads",
        )
    heads = {name: padding(small.sizes[name], large.sizes[name], fresh="writers") for name in _heads(small)}
    return _grow(small, large, _pad_axis, heads, seed, noise=0.0)


OPERATORS = (
    Operator(
        name="isometric",
        kind="width",
        grow=isometric,
        title="Unit i copied cᵢ times, every copy scaled by 1/√cᵢ, so that FᵀF = I and G = F.",
        paper="ours (docs/maths.md)",
        tensors={
            "embeddings": "columns copied, × 1/√c",
            "attention": "whole heads copied; head_dim: queries copied to neighbouring pairs, new keys zero",
            "MLP": "units copied unscaled, readers share",
            "norms": "gains copied × ρ, eps × ρ²",
            "biases": "copied as the axis they write",
            "head": "tied: kept tied; untied: columns copied × 1/√c",
        },
        function="kept at any width under RMSNorm; under LayerNorm at multiples",
        gradient="kept wherever the function is",
        escape="uneven copies part; even copies only with noise or dropout",
        use="any width, exact",
        published_moments="transport",
    ),
    Operator(
        name="duplicate",
        kind="width",
        grow=duplicate,
        title="Every unit copied equally often; readers divide their weight among the copies.",
        paper="Net2Net (arXiv 1511.05641); HyperCloning (arXiv 2409.12903)",
        tensors={
            "embeddings": "columns repeated",
            "attention": "whole heads repeated",
            "MLP": "units repeated, readers × 1/c",
            "norms": "gains repeated; tied: the last gain × 1/c",
            "biases": "repeated",
            "head": "tied: kept tied; untied: columns × 1/c",
        },
        function="kept at multiples, under every norm",
        gradient="kept; with the multipliers of `plan.multipliers` the whole AdamW trajectory",
        escape="none without noise or dropout: the exact cage",
        use="studies of exact dynamics; LayerNorm models",
        published_moments="reset",
    ),
    Operator(
        name="pad",
        kind="width",
        grow=pad,
        title="Old units stay; new units are fresh on the side that keeps the function and zero on the other.",
        paper="Gesmundo and Maile (arXiv 2308.06103); LEMON (arXiv 2310.07999)",
        tensors={
            "embeddings": "new columns zero (RMSNorm) or the mean (LayerNorm)",
            "attention": "new heads read fresh and write zero",
            "MLP": "new units read fresh and write zero",
            "norms": "gains × ρ, new ones at the mean gain; eps × ρ²",
            "biases": "new ones zero",
            "head": "new columns fresh where untied",
        },
        function="kept at any width, pre-norm",
        gradient="kept on old entries; not under LayerNorm",
        escape="new units are drawn, so nothing is locked",
        use="small changes of width that must not lose anything",
        published_moments="keep_zero",
    ),
)


def _grow(
    small: Model,
    large: Model,
    rule: AxisRule,
    heads: dict[str, AxisMap],
    seed: int,
    noise: float,
) -> Growth:
    axes = no_width(small) | heads
    for name, spec in small.axes.items():
        if spec.through == "lookup":
            axes[name] = padding(small.sizes[name], large.sizes[name], fresh="writers")
        elif (
            spec.can_grow
            and spec.through not in ("norm", "heads")
            and spec.like is None
            and small.sizes[name] != large.sizes[name]
        ):
            axes[name] = rule(name, spec, small, large)
    return Growth(small, large, axes, no_layers(small), noise, seed)


# ---- one axis -------------------------------------------------------------------------------------------------------


def _isometric_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    before, after = small.sizes[name], large.sizes[name]
    index = copy_index(before, after)
    if spec.through == "stream":
        if after % before and _has_layer_norm(small):
            raise GrowthError(
                f"isometric cannot keep the function: axis '{name}' passes through LayerNorm, which needs every unit copied"
                f" equally often, and {after} is not a multiple of {before}",
                fix=_layer_norm_advice(small, before, after),
            )
        axis = copies(index, before, forward_power=0.5)
        return rescaled(axis, sqrt(after / before)) if eps_conflict(small) else axis
    if spec.through in ("dot", "raw"):
        return _attention_axis(name, spec, small, large, power=0.5)
    return copies(index, before, forward_power=0.5 if spec.through == "linear" else 0.0)


def _duplicate_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    if spec.through in ("dot", "raw"):
        return _attention_axis(name, spec, small, large, power=0.0)
    return copies(copy_index(small.sizes[name], large.sizes[name]), small.sizes[name])


def _pad_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    before, after = small.sizes[name], large.sizes[name]
    if spec.through == "stream":
        if _has_layer_norm(small):
            if small.spec.layers.norm == "post":
                raise GrowthError(
                    f"pad cannot keep the function: axis '{name}' passes through LayerNorm after every sum (post-norm), and no"
                    f" constant new channel keeps its mean",
                    fix=f"use isometric or duplicate with {_multiples(before, after)}",
                )
            if small.is_scaled(name):
                raise GrowthError(
                    f"pad cannot keep the function: the branches that write axis '{name}' end in gains (LayerScale), after"
                    f" which no constant new channel holds the mean",
                    fix=f"use isometric or duplicate with {_multiples(before, after)}",
                )
            return padding(before, after, fresh="readers", mean=True)
        axis = padding(before, after, fresh="readers")
        return rescaled(axis, sqrt(after / before)) if eps_conflict(small) else axis
    if spec.through == "raw" or spec.of is not None:
        return _attention_axis(name, spec, small, large, power=0.0)
    if spec.through == "dot":
        side = "writers" if small.is_query(name) else "readers"
        places = _rotary_places(name, before, after) if spec.rotary else None
        return padding(before, after, fresh=side, places=places)  # type: ignore[arg-type]
    return padding(before, after, fresh="writers")


def _attention_axis(name: str, spec: AxisSpec, small: Model, large: Model, *, power: float) -> AxisMap:
    """Queries and keys. Rotary: every pair copied to k neighbours on the query side, keys zero but at the old frequency."""
    before, after = small.sizes[name], large.sizes[name]
    rotary = spec.rotary or any(other.of == name and other.rotary for other in small.axes.values())
    if not rotary:
        index = copy_index(before, after)
        if small.is_query(name):
            return copies(index, before, forward_power=power)
        return copies(index, before, forward_power=1 - power)
    places = _rotary_places(name, before, after)
    if spec.through == "dot" and not small.is_query(name):
        return padding(before, after, fresh="readers", places=places)
    pairs = torch.arange(before // 2).repeat_interleave(after // before)
    return copies(torch.cat([pairs, pairs + before // 2]), before)


def _rotary_places(name: str, before: int, after: int) -> Tensor:
    """Where old dimension i goes so that its pair keeps its frequency: pair i -> pair k·i (half-split layout)."""
    if after % before or before % 2:
        raise GrowthError(
            f"axis '{name}' (head_dim) turns in rotary pairs and can only grow by a whole factor",
            got=f"{before} to {after}",
            fix=f"choose head_dim {_multiples(before, after)}, or keep head_dim and add heads",
        )
    factor, pairs = after // before, torch.arange(before // 2)
    return torch.cat([pairs * factor, after // 2 + pairs * factor])


def _has_layer_norm(model: Model) -> bool:
    return any(spec.norm == "layer" for spec in model.axes.values())


def _layer_norm_advice(small: Model, before: int, after: int) -> str:
    choose = f"choose {_multiples(before, after)}"
    scaled = any(small.is_scaled(name) for name, spec in small.axes.items() if spec.through == "stream")
    return choose if scaled or small.spec.layers.norm == "post" else f"use pad (any size), or {choose}"


def _multiples(before: int, after: int) -> str:
    low = max(after // before, 1) * before
    return f"{low} or {low + before}" if low > before else f"{low + before}"


# ---- heads ----------------------------------------------------------------------------------------------------------


def _heads(model: Model) -> list[str]:
    return [name for name, spec in model.axes.items() if spec.through == "heads"]


def _copied_heads(small: Model, large: Model) -> dict[str, AxisMap]:
    """Whole heads copied. Query heads stand in groups under their key/value head, and follow it."""
    if "group" not in small.axes:
        return {
            name: copies(copy_index(small.sizes[name], large.sizes[name]), small.sizes[name])
            for name in _heads(small)
        }
    kv = copies(copy_index(small.sizes["kv_heads"], large.sizes["kv_heads"]), small.sizes["kv_heads"])
    before, after = small.sizes["group"], large.sizes["group"]
    if after >= before:
        return {"kv_heads": kv, "group": copies(copy_index(before, after), before)}
    return {"kv_heads": kv, "group": identity(before), "kv_heads group": _dealt(kv, before, after)}


def _dealt(kv: AxisMap, before: int, after: int) -> AxisMap:
    """Fewer query heads per key/value head: the old group's heads are dealt out to its copies in turn."""
    sources = kv.forward.index.tolist() if isinstance(kv.forward, Select) else list(range(kv.small))
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
