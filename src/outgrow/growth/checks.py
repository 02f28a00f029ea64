"""What an axis passes through decides which maps keep the function: one check per kind, the table of docs/explanation/maths.md."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any, NamedTuple

import torch

from outgrow.algebra.linear import EMPTY, MEAN
from outgrow.algebra.maps import AxisMap
from outgrow.algebra.products import product_error
from outgrow.growth.growth import Growth, covered
from outgrow.growth.raw_norms import unscaled
from outgrow.models.spec import AxisSpec


class Kept(NamedTuple):
    """What a growth keeps of one axis, and why not where not."""

    function: bool
    gradient: bool
    why: str


def _score_factor(spec: AxisSpec, query: AxisMap) -> float:
    """√(D/d), by which queries make up for scores that attention divides by the root of the head's size."""
    return 1.0 if spec.scores == "fixed" else sqrt(query.large / query.small)


def _stream(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    axis = axes[name]
    if growth.small.axes[name].unscaled and (why := unscaled(name, axis)):
        return Kept(False, False, why)
    kinds = {spec.norm for spec in growth.small.axes.values() if spec.of == name}
    if axis.norm_ratio() is None:
        return Kept(False, False, "norms see copies of unequal weight: FᵀF is not c·I")
    if "layer" not in kinds:
        fair = _shared_as_written(axis)
        why = "" if fair else "a norm's backward pass mixes all channels, and copies are read unequally"
        return Kept(True, fair, why)
    forward = axis.forward.as_gather()
    if bool((forward.index == MEAN).any()):
        if growth.small.spec.layers.norm == "post":
            return Kept(
                False, False, "after a post-norm the stream's mean is no longer the mean of what was added"
            )
        if growth.small.is_scaled(name):
            return Kept(False, False, "a branch's gains (LayerScale) change the mean that new channels hold")
        return Kept(True, False, "a LayerNorm's backward pass centres over all channels, the new ones too")
    if not covered(axis.forward):
        return Kept(False, False, "a LayerNorm centres its input, and zeros are not its mean")
    counts = torch.bincount(forward.index, minlength=axis.small)
    uniform = (
        bool((counts == counts[0]).all()) and float((forward.weight - forward.weight[0]).abs().max()) < 1e-12
    )
    if uniform and not _shared_as_written(axis):
        return Kept(True, False, "a norm's backward pass mixes all channels, and copies are read unequally")
    return Kept(
        uniform,
        uniform,
        "" if uniform else "a LayerNorm centres its input: it needs every unit copied equally often",
    )


def _shared_as_written(axis: AxisMap) -> bool:
    """Whether G = F / c: gradients are shared among copies as activations are."""
    forward, backward, ratio = axis.forward.as_gather(), axis.backward.as_gather(), axis.norm_ratio()
    assert ratio is not None
    wanted = torch.where(forward.index >= 0, forward.weight, 0.0) / ratio
    given = torch.where(backward.index >= 0, backward.weight, 0.0)
    return bool((wanted - given).abs().max() < 1e-12)


def _copies_whole(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    forward = axes[name].forward.as_gather()
    if growth.small.axes[name].alibi and axes[name].grows and not _keeps_slopes(axes[name]):
        return Kept(False, False, "the slope of a head (ALiBi) depends on its place among all heads")
    whole = bool(((forward.weight == 1) | (forward.index == EMPTY)).all())
    return Kept(
        whole,
        whole,
        "" if whole else f"a unit that passes through {growth.small.axes[name].through} cannot be scaled",
    )


def _keeps_slopes(axis: AxisMap) -> bool:
    """Whether head i of n stands at place k·(i+1)-1 of k·n, where its slope is the old one, and all other heads are new."""
    places, forward = slope_places(axis.small, axis.large), axis.forward.as_gather()
    alone = int((forward.index >= 0).sum()) == axis.small
    return places is not None and alone and torch.equal(forward.index[places], torch.arange(axis.small))


def slope_places(before: int, after: int) -> torch.Tensor | None:
    """Where n = 2^p heads keep their ALiBi slopes 2^(-8(i+1)/n) among k·n; None where nowhere.

    >>> slope_places(2, 4).tolist()
    [1, 3]
    """
    powers = all(count & (count - 1) == 0 for count in (before, after))
    return (torch.arange(before) + 1) * (after // before) - 1 if powers else None


def _dot(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    spec = growth.small.axes[name]
    other = axes[str(spec.with_)]
    wanted = _score_factor(spec, axes[name])
    if product_error(axes[name].forward, other.forward, wanted) > 1e-9:
        return Kept(False, False, f"the dot product with {spec.with_} changes")
    if spec.rotary and not _keeps_frequencies(axes[name]):
        return Kept(False, False, "rotary pairs would turn at another frequency")
    if spec.rotary and axes[name].grows and (bound := rope_types(growth.small.own_config) - _SCALABLE_ROPE):
        return Kept(
            False, False, f"rotary positions of type {', '.join(sorted(bound))} depend on the head's size"
        )
    if spec.rotary and not _same_pairs_turn(growth.small.own_config, axes[name]):
        return Kept(
            False,
            False,
            "the share of each head that turns does not scale: pairs would begin or cease to turn",
        )
    return Kept(True, True, "")


def _keeps_frequencies(axis: AxisMap) -> bool:
    """Whether old pair i stands at new pair k·i on the side that is not zero (half-split layout)."""
    if axis.large % axis.small:
        return False
    factor, forward = axis.large // axis.small, axis.forward.as_gather()
    pairs, old = torch.arange(axis.small), axis.small // 2
    places = torch.where(pairs < old, pairs * factor, axis.large // 2 + (pairs - old) * factor)
    return torch.equal(forward.index[places], pairs)


_SCALABLE_ROPE = {"default", "linear", "llama3", "proportional"}
"""Types whose pair k·i of a k times larger head turns as fast as pair i: what they do to a frequency depends on it alone."""


def rope_types(config: Mapping[str, Any]) -> set[str]:
    """Types of the rotary positions, which a config names once or for each type of layer."""
    return {str(one.get("rope_type", one.get("type", "default"))) for one in _ropes(config)}


def _ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return [one for one in found.values() if isinstance(one, Mapping)] or [found]


def _same_pairs_turn(config: Mapping[str, Any], axis: AxisMap) -> bool:
    """Whether pair k·i of the larger head turns where pair i does, under `proportional`: the first ⌊f·d/2⌋ pairs turn."""
    factor = axis.large // axis.small
    for one in _ropes(config):
        if one.get("rope_type", one.get("type")) != "proportional":
            continue
        share = float(one.get("partial_rotary_factor", 1.0))
        before, after = (int(share * size // 2) for size in (axis.small, axis.large))
        if any((pair < before) != (factor * pair < after) for pair in range(axis.small // 2)):
            return False
    return True


def _raw(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    if not axes[name].grows:
        return Kept(True, True, "")
    return Kept(True, False, "the norm's backward pass spreads over copies of which only one is read")


def _plain(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    return Kept(True, True, "")


def _lookup(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    return Kept(
        False, False, "logits of old tokens are kept, but new tokens take their share of the probability"
    )


def _grid(growth: Growth, axes: Mapping[str, AxisMap], name: str) -> Kept:
    return Kept(False, False, "an image has more patches, at positions between the old ones")


_CHECKS = {
    "stream": _stream,
    "norm": _plain,
    "elementwise": _copies_whole,
    "heads": _copies_whole,
    "dot": _dot,
    "raw": _raw,
    "linear": _plain,
    "lookup": _lookup,
    "router": _plain,
    "input": _plain,
    "positions": _plain,
    "grid": _grid,
    "fixed": _plain,
}
