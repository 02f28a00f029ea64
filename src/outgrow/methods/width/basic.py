"""Growing in width: which units of an axis are copied, and how copies share.

    isometric   unit i copied cᵢ times, each times 1/√cᵢ: FᵀF = I, exact at any width (ours, docs/explanation/maths.md)
    duplicate   every unit copied equally often, readers share (Net2Net, arXiv 1511.05641; HyperCloning, 2409.12903)
    pad         old units kept, new units silent: fresh on the side that keeps the function (arXiv 2308.06103, LEMON 2310.07999)

Units behind a nonlinearity, and whole heads, are copied unscaled by `isometric` too. Keys and queries under rotary
positions move to the pairs that turn at their old frequency.
"""

from __future__ import annotations

from math import sqrt

from outgrow.algebra.maps import AxisMap, copies, copy_index, padding, rescaled
from outgrow.errors import GrowthError
from outgrow.growth.checks import slope_places
from outgrow.growth.growth import Growth
from outgrow.methods.registry import Operator
from outgrow.methods.width.units import (
    attention_axis,
    copied_heads,
    grow_width,
    has_layer_norm,
    head_axes,
    multiples,
    refuse_fewer_queries,
    rotary_places,
)
from outgrow.models.model import Model
from outgrow.models.spec import AxisSpec


def isometric(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Copies scaled by 1/√count: F has orthonormal columns and G = F. Keeps the function at any width under RMSNorm.

    Keeps: function, gradient law, singular values. A LayerNorm needs every unit copied equally often.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.growth.target import target
    >>> small = resolve({"model_type": "llama", "hidden_size": 6, "num_attention_heads": 3, "num_hidden_layers": 1, "intermediate_size": 10, "vocab_size": 7})
    >>> growth = isometric(small, target(small, {"hidden_size": 9}))
    >>> round(growth.axes["embed"].norm_ratio(), 12)
    1.0
    """
    return grow_width(small, large, _isometric_axis, copied_heads(small, large), seed, noise)


def duplicate(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Every unit of a growing axis copied the same number of times; readers divide their weight among the copies.

    Keeps: function and gradient law, and with the multipliers of `multipliers` the whole AdamW trajectory.
    Raises GrowthError where a size is not a multiple.
    """
    for name, size in small.sizes.items():
        spec = small.axes[name]
        if (
            spec.can_grow
            and not spec.is_table
            and not spec.is_normed
            and name != "group"
            and large.sizes[name] % size
        ):
            raise GrowthError(
                f"duplicate cannot grow axis '{name}' ({spec.size}) from {size} to {large.sizes[name]}: not a multiple",
                fix=f"use isometric or pad (any size), or choose {multiples(size, large.sizes[name])}",
            )
    return grow_width(small, large, _duplicate_axis, copied_heads(small, large), seed, noise)


def pad(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Old units stay as they are; new units are fresh where that keeps the function and zero on the other side.

    The stream's new channels are zero under RMSNorm and hold the mean under a pre-norm LayerNorm.
    Keeps: function; the gradient law on old entries (not under LayerNorm). Post-norm LayerNorm cannot be padded.
    Nothing is copied, so there is nothing that `noise` could tell apart: it is left out.
    """
    refuse_fewer_queries(small, large, "pad")
    heads = {name: _padded_heads(name, small, large) for name in head_axes(small)}
    return grow_width(small, large, _pad_axis, heads, seed, noise=0.0)


def _padded_heads(name: str, small: Model, large: Model) -> AxisMap:
    """New heads behind the old ones, or, where slopes depend on places, between them."""
    before, after = small.sizes[name], large.sizes[name]
    places = slope_places(before, after) if small.axes[name].alibi and before != after else None
    return padding(before, after, fresh="writers", places=places)


OPERATORS = (
    Operator(
        name="isometric",
        kind="width",
        grow=isometric,
        title="Unit i copied cᵢ times, every copy scaled by 1/√cᵢ, so that FᵀF = I and G = F.",
        paper="ours (docs/explanation/maths.md)",
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
        gradient="kept; with the multipliers of `outgrow.multipliers` the whole AdamW trajectory",
        escape="none without noise or dropout: the exact cage",
        use="studies of exact dynamics; LayerNorm models",
        published_moments="reset",
    ),
    Operator(
        name="pad",
        kind="width",
        grow=pad,
        title="Old units stay; new units are fresh on the side that keeps the function and zero on the other.",
        paper="the composable expansions of Gesmundo and Maile (arXiv 2308.06103): all five of width, one by one or together",
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
        use="the default: best in the comparison of operators; any width",
        published_moments="keep_zero",
    ),
)


# ---- one axis -------------------------------------------------------------------------------------------------------


def _isometric_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    before, after = small.sizes[name], large.sizes[name]
    index = copy_index(before, after)
    if spec.is_stream:
        if after % before and has_layer_norm(small):
            raise GrowthError(
                f"isometric cannot keep the function: axis '{name}' passes through LayerNorm, which needs every unit copied"
                f" equally often, and {after} is not a multiple of {before}",
                fix=_layer_norm_advice(small, before, after),
            )
        if spec.unscaled:
            return copies(index, before)
        axis = copies(index, before, forward_power=0.5)
        return rescaled(axis, sqrt(after / before)) if small.keeps_rms else axis
    if spec.inside_head:
        return attention_axis(name, spec, small, large, power=0.5)
    return copies(index, before, forward_power=0.5 if spec.is_linear else 0.0)


def _duplicate_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    if spec.inside_head:
        return attention_axis(name, spec, small, large, power=0.0)
    return copies(copy_index(small.sizes[name], large.sizes[name]), small.sizes[name])


def _pad_axis(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    before, after = small.sizes[name], large.sizes[name]
    if spec.is_stream:
        if has_layer_norm(small):
            if small.spec.layers.norm == "post":
                raise GrowthError(
                    f"pad cannot keep the function: axis '{name}' passes through LayerNorm after every sum (post-norm), and no"
                    f" constant new channel keeps its mean",
                    fix=f"use isometric or duplicate with {multiples(before, after)}",
                )
            if small.is_scaled(name):
                raise GrowthError(
                    f"pad cannot keep the function: the branches that write axis '{name}' end in gains (LayerScale), after"
                    f" which no constant new channel holds the mean",
                    fix=f"use isometric or duplicate with {multiples(before, after)}",
                )
        axis = padding(before, after, fresh="readers", mean=has_layer_norm(small))
        return rescaled(axis, sqrt(after / before)) if small.keeps_rms else axis
    if spec.is_raw or spec.of is not None:
        return attention_axis(name, spec, small, large, power=0.0)
    if spec.is_contracted:
        side = "writers" if small.is_query(name) else "readers"
        places = rotary_places(name, before, after) if spec.rotary else None
        return padding(before, after, fresh=side, places=places)  # type: ignore[arg-type]
    return padding(before, after, fresh="writers")


def _layer_norm_advice(small: Model, before: int, after: int) -> str:
    choose = f"choose {multiples(before, after)}"
    scaled = any(small.is_scaled(name) for name, spec in small.axes.items() if spec.is_stream)
    return choose if scaled or small.spec.layers.norm == "post" else f"use pad (any size), or {choose}"
