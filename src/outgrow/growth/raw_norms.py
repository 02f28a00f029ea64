"""Norms whose input is no axis of its own: behind a branch, over all heads together, over a latent, behind an embedding.

Signatures call the input of such a norm `raw(X)`, X being its output. Let X grow by F_X, unit r copying unit i, of which
there are n copies. The input then grows so that its root mean square stays, and the gain makes up for the rest:

    F_raw[r] = √(D/d) / √n      G_raw = (d/D)·F_raw      gain'[r] = (F_X[r] / F_raw[r])·gain[i]      ρ = 1, eps stays

Another kind has an input that passes a nonlinearity first (`over`): nothing can scale it, so its units must be copied
equally often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isclose

import torch

from outgrow.algebra.axes import Raw, parse
from outgrow.algebra.linear import EMPTY, MEAN, Select
from outgrow.algebra.maps import AxisMap
from outgrow.growth.finding import Finding
from outgrow.growth.growth import joined_maps
from outgrow.models.model import Model

_INSIDE = "norm inside a branch"


@dataclass(frozen=True)
class RawNorm:
    """The maps of a norm's input, and of its gain."""

    input: AxisMap
    gain: AxisMap
    gradient: bool
    """Whether the norm's backward pass treats copies as they are read."""
    even: bool
    """Whether every unit is copied equally often and none is new: what a LayerNorm's mean asks for."""


def raw_norm(model: Model, axes: Mapping[str, AxisMap], raw: Raw) -> RawNorm:
    """What the growth of a norm's output asks of its input and its gain.

    New heads under a norm over all heads can be neither fresh, which would change the root mean square, nor zero: zero
    queries and keys have no gradient. They begin as copies of old ones.
    """
    after = joined_maps(raw.blocks, axes)
    if after.forward.is_identity:
        return RawNorm(after, after, gradient=True, even=True)
    output, dual = after.forward.as_gather(), after.backward.as_gather()
    units, ratio = after.small, after.large / after.small
    index = torch.where(output.index >= 0, output.index, EMPTY)
    if any(model.axes[name].is_heads for block in raw.blocks for name in block if isinstance(name, str)):
        index = torch.where(index < 0, torch.arange(after.large) % units, index)
    old = index >= 0
    counts = torch.bincount(index[old], minlength=units).to(torch.float64)
    weight = torch.where(old, (ratio / counts[index.clamp(min=0)]).sqrt(), 0.0)
    written = torch.where(output.index >= 0, output.weight, 1.0)
    read = torch.where(dual.index >= 0, dual.weight, 0.0)
    safe = torch.where(old, weight, 1.0)
    gain = AxisMap(
        Select(torch.where(old, index, MEAN), torch.where(old, written / safe, 1.0), units),
        Select(index, torch.where(old, read * safe, 0.0), units),
    )
    before = AxisMap(Select(index, weight, units), Select(index, weight / ratio, units))
    fair = (
        after.residual() < 1e-9 and float((written * read - weight.square() / ratio)[old].abs().max()) < 1e-12
    )
    even = bool(old.all()) and bool((counts == counts[0]).all()) and bool((output.index >= 0).all())
    return RawNorm(before, gain, fair, even)


def part_of_raw(model: Model, whole: Mapping[str, AxisMap], own: Mapping[str, AxisMap], raw: Raw) -> RawNorm:
    """The same for a part of a tensor with its `own` maps. Some of the units as the whole grows them keep the whole's scale.

    The norm sees the sum of all parts: copies in other parts count too.
    """
    every, some = (joined_maps(raw.blocks, axes).forward for axes in (whole, own))
    if every.is_identity or some.is_identity:
        return raw_norm(model, own, raw)
    outer, inner = every.as_gather(), some.as_gather()
    kept = inner.index >= 0
    same = torch.equal(outer.index[kept], inner.index[kept]) and torch.equal(
        outer.weight[kept], inner.weight[kept]
    )
    if not same or torch.equal(outer.index, inner.index):
        return raw_norm(model, own, raw)
    found = raw_norm(model, whole, raw)
    forward, backward = (one.as_gather().only(kept) for one in (found.input.forward, found.input.backward))
    return replace(found, input=AxisMap(forward, backward))


def raw_findings(model: Model, axes: Mapping[str, AxisMap]) -> Iterator[Finding]:
    """One finding per norm of these kinds whose units grow."""
    kinds = {
        (str(raw), one.spec.norm): raw
        for one in model.parameters.values()
        for raw in one.signature.raw
        if one.signature.is_gain
    }
    for (name, norm), raw in kinds.items():
        found = raw_norm(model, axes, raw)
        if not found.input.grows:
            continue
        function, gradient, why = True, found.gradient, ""
        if norm == "layer" and not found.even:
            function, gradient = False, False
            why = "a LayerNorm inside a branch needs every unit copied equally often"
        elif not gradient:
            why = "a norm's backward pass mixes all units, and copies are read unequally"
        note = "written so that their root mean square stays"
        yield Finding(name, found.input.small, found.input.large, _INSIDE, function, gradient, note, why)
    for over in {one.spec.over: None for one in model.parameters.values() if one.spec.over}:
        inner = joined_maps(parse(f"({over})").dims[0].blocks, axes)
        ratio = inner.norm_ratio()
        if inner.grows:
            kept = ratio is not None and isclose(ratio, inner.large / inner.small, rel_tol=1e-12)
            why = (
                ""
                if kept
                else "nothing can scale the input of the norm over them: it needs equal copies of each"
            )
            yield Finding(f"({over})", inner.small, inner.large, _INSIDE, kept, kept, "", why)


def unscaled(name: str, axis: AxisMap) -> str:
    """Why a stream that is also written through a nonlinearity cannot grow like this; empty where it can."""
    if axis.forward.is_identity:
        return ""
    given = axis.forward.as_gather()
    scaled = bool(((given.index >= 0) & (given.weight != 1)).any()) or bool((given.index == MEAN).any())
    return (
        f"'{name}' is also written through a nonlinearity, which knows no scale and no mean" if scaled else ""
    )
