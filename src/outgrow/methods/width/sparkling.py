"""SPARKLING: rows copied, fan-in rescaled so that activations keep their size (arXiv 2602.02472).

    fan-out    new row r copies row r mod d
    fan-in     [W, W_new] · s     W_new copied      s = √(d / (3d' - 2d))  for d < d' ≤ 2d,   d / d' beyond
                                  W_new random      s = √(d / d')
                                  W_new zero        s = √(d / d'), as if random

The function is kept only where s is exact (both sides copied, whole factors). What matters to the paper is the rest: old
moments kept and new ones zero (`--moments keep_zero`), and new entries at up to 1.3 times the learning rate.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Literal

import torch

from outgrow.algebra.linear import EMPTY, Select
from outgrow.algebra.maps import AxisMap, copies, copy_index
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part
from outgrow.methods.registry import Operator
from outgrow.methods.width.units import as_given, copied_heads, grow_width, growing
from outgrow.models.model import Model
from outgrow.models.spec import AxisSpec

FanIn = Literal["copy", "zero", "random"]


def sparkling(
    small: Model,
    large: Model,
    *,
    seed: int = 0,
    noise: float = 0.0,
    fan_in: FanIn = "copy",
    factor: Literal["rms", "exact"] = "rms",
) -> Growth:
    """Copies whose readers are scaled to keep the root mean square of what they compute; heads and head_dim stay.

    `fan_in` is what stands in the new columns of readers; random columns have the root mean square of the weight they join.
    `factor=exact` divides readers by the number of copies instead (with `fan_in=copy`): the function is kept wherever
    copies are even. Copies part by their moments, so `noise` is used only where the growth is exact.

    Raises GrowthError where heads or head_dim grow, and for a LayerNorm stream.

    >>> fan_in_factor(4, 6, "copy") == sqrt(4 / 10), fan_in_factor(4, 8, "copy"), fan_in_factor(4, 16, "random")
    (True, 0.5, 0.5)
    """
    _check(small, large, fan_in, factor)
    found = growing(small, large)
    exact = factor == "exact" or all(not after % before for before, after in found.values())
    heads = copied_heads(small, large)
    if fan_in == "copy" and exact:
        return grow_width(small, large, _exact, heads, seed, noise)

    def rule(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
        before, after = small.sizes[name], large.sizes[name]
        index, share = copy_index(before, after), fan_in_factor(before, after, fan_in)
        forward = Select(index, torch.ones(after, dtype=torch.float64), before)
        read = index if fan_in == "copy" else torch.where(torch.arange(after) < before, index, EMPTY)
        weight = (read >= 0).to(torch.float64) * share
        return AxisMap(forward, Select(read, weight, before), "none")

    growth = _with_tied_head(as_given(grow_width(small, large, rule, heads, seed, noise=0.0), {}))
    growth = replace(
        growth, inexact=f"readers keep the size of activations, not their values ({fan_in} fan-in)"
    )
    if fan_in == "random":
        growth = replace(growth, parts=_random_columns(growth), noise_unit="weight")
    return growth


def fan_in_factor(before: int, after: int, fan_in: FanIn) -> float:
    """s, by which the root mean square of what readers compute stays, for inputs that are independent."""
    if fan_in == "copy":
        return sqrt(before / (3 * after - 2 * before)) if after <= 2 * before else before / after
    return sqrt(before / after)


def _exact(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    return copies(copy_index(small.sizes[name], large.sizes[name]), small.sizes[name])


def _check(small: Model, large: Model, fan_in: str, factor: str) -> None:
    for name in growing(small, large):
        spec = small.axes[name]
        if spec.is_heads or spec.inside_head or spec.is_linear:
            raise GrowthError(
                f"sparkling keeps heads and head_dim as they are, and axis '{name}' ({spec.size}) would grow",
                got=f"{small.sizes[name]} to {large.sizes[name]}",
                expected=small.sizes[name],
                fix="leave the number and size of heads, or use isometric, duplicate or lemon",
            )
        if spec.is_stream and any(one.norm == "layer" for one in small.axes.values()):
            raise GrowthError(
                f"sparkling is defined for RMSNorm, and axis '{name}' passes through LayerNorm",
                fix="grow only intermediate_size, or use lemon or pad for the stream",
            )
    if factor == "exact" and fan_in != "copy":
        raise GrowthError(
            "sparkling:factor=exact divides among copies, and there are none to divide among",
            got=f"fan_in={fan_in}",
            expected="fan_in=copy",
        )


def _with_tied_head(growth: Growth) -> Growth:
    """A tied head's columns are copies whatever `fan_in` says: their factor goes into the last norm."""
    tied = [name for name in growth.small.tied_axes() if growth.axes[name].grows]
    axes, gains = dict(growth.axes), dict(growth.gains or {})
    for name, gain in gains.items():
        if gain.grows:
            gains[name] = copies(copy_index(gain.small, gain.large), gain.small)
    for name in tied:
        share = fan_in_factor(axes[name].small, axes[name].large, "copy")
        axes[name] = replace(axes[name], forward=axes[name].forward.scaled(share))
        gains[name] = AxisMap(gains[name].forward.scaled(share), gains[name].backward.scaled(1 / share))
    return replace(growth, axes=axes, gains=gains)


def _random_columns(growth: Growth) -> dict[str, tuple[Part, ...]]:
    """Noise of the weight's own size in the new columns of every matrix that reads a growing axis."""
    found: dict[str, tuple[Part, ...]] = {}
    for parameter in growth.large.parameters.values():
        for name in parameter.signature.axes("reads"):
            axis = growth.axes[name]
            if axis.grows and not growth.small.axes[name].is_table:
                share = fan_in_factor(axis.small, axis.large, "random")
                found[parameter.pattern] = (Part(noise=share, noise_on="reads"),)
    return found


OPERATORS = (
    Operator(
        name="sparkling",
        kind="width",
        grow=sparkling,
        title="Rows copied, readers scaled so that activations keep their root mean square.",
        paper="SPARKLING (ByteDance Seed, ICML 2026, arXiv 2602.02472)",
        tensors={
            "embeddings": "columns copied in a circle",
            "attention": "heads stay; input columns × s, output rows copied",
            "MLP": "units copied in a circle, readers × s (new columns copied, zero or random)",
            "norms": "gains copied, eps stays; tied: the last gain × s",
            "biases": "copied as the axis they write",
            "head": "tied: kept tied; untied: columns as other readers",
        },
        function="kept at whole factors with fan_in=copy; else only the size of activations",
        gradient="kept where the function is",
        escape="by moments (keep_zero) and by the learning rate of new entries",
        use="width growth late in pre-training, with keep_zero",
        published_moments="keep_zero",
        schedule="new entries: from the current rate to 1.3 times it in 250 steps, then the same decay; old entries undisturbed",
        options={
            "fan_in": "what stands in the new columns of readers: copies, zeros, or random numbers",
            "factor": "readers keep the mean square of what they compute (rms), or its values (exact, with fan_in=copy)",
        },
    ),
)
