"""LEMON: whole copies plus a silent rest, read unequally (Wang et al., ICLR 2024, arXiv 2310.07999).

    stream d → D = k·d + r     k copies, then r channels that hold the mean (LayerNorm) or zero (RMSNorm)
    readers of n copies        share of copy j ∝ split^-j, all shares sum to one: lossless, and no two copies alike

The rest changes a norm's statistics by the known ρ = √(k·d/D), which goes into gain and eps (`constraints`). Units
behind a nonlinearity, and whole heads, are copied in a circle, so any number fits.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.linear import EMPTY, MEAN, Select
from outgrow.algebra.maps import AxisMap, copy_index, rescaled
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.methods.registry import Operator
from outgrow.methods.width.units import copied_heads, grow_width, has_layer_norm, multiples, refuse_head_dim
from outgrow.models.model import Model
from outgrow.models.spec import AxisSpec


def lemon(
    small: Model,
    large: Model,
    *,
    seed: int = 0,
    noise: float = 0.0,
    split: float = 2.0,
    expansion: Literal["average", "circular"] = "average",
) -> Growth:
    """Copies whose readers share unevenly, at any width: each copy is read `split` times as strongly as the next.

    `expansion` is what fills a stream that is no multiple: `average` (the mean, or zero under RMSNorm), or `circular`,
    which goes on copying and is refused where a norm would see it. `split=1` shares evenly. How unequal the shares are
    is free in the paper; 2 is our default.

    Keeps: function; the gradient law unless the stream itself grows, since a norm mixes unequally read channels.
    Raises GrowthError for head_dim, and for a post-norm stream that is no multiple.

    >>> uneven(torch.tensor([0, 1, 0]), 2, split=3.0).backward.weight.tolist()
    [0.75, 1.0, 0.25]
    """
    if not split > 0:
        raise GrowthError("option split of width operator 'lemon'", got=split, expected="a number above 0")
    refuse_head_dim(small, large, "lemon")

    def rule(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
        before, after = small.sizes[name], large.sizes[name]
        if not spec.is_stream:
            return uneven(copy_index(before, after), before, split)
        if after % before:
            _check_rest(name, small, before, after, expansion)
        axis = _stream(before, after, split, mean=has_layer_norm(small))
        return rescaled(axis, sqrt(after / before / (after // before))) if small.keeps_rms else axis

    whole = copied_heads(small, large)
    heads = {
        name: uneven(axis.forward.as_gather().index, axis.small, split) if axis.grows else axis
        for name, axis in whole.items()
    }
    return grow_width(small, large, rule, heads, seed, noise)


def uneven(index: Tensor, small: int, split: float) -> AxisMap:
    """Copies that are written alike and read with shares ∝ split^-j for the j-th copy of a unit."""
    old = index >= 0
    written = Select(index, (index != EMPTY).to(torch.float64), small)
    share = torch.where(old, split ** -written.copy_numbers.to(torch.float64), 1.0)
    total = torch.zeros(small, dtype=torch.float64).index_add_(0, index[old], share[old])
    read = torch.where(old, share / total[index.clamp(min=0)], 0.0)
    return AxisMap(written, Select(torch.where(old, index, EMPTY), read, small), "readers")


def _stream(before: int, after: int, split: float, *, mean: bool) -> AxisMap:
    index = copy_index(before, after)
    index[after // before * before :] = MEAN if mean else EMPTY
    return uneven(index, before, split)


def _check_rest(name: str, small: Model, before: int, after: int, expansion: str) -> None:
    """Refuse a rest that the norms would see."""
    if expansion == "circular":
        raise GrowthError(
            f"lemon:expansion=circular cannot keep the function: norms see axis '{name}' copied unevenly",
            got=f"{before} to {after}",
            fix=f"leave expansion=average, or choose {multiples(before, after)}",
        )
    if has_layer_norm(small) and small.spec.layers.norm == "post":
        raise GrowthError(
            f"lemon cannot keep the function: axis '{name}' passes through LayerNorm after every sum (post-norm), and no"
            f" channel keeps the mean of the others",
            got=f"{before} to {after}",
            fix=f"choose {multiples(before, after)}, for lemon, isometric or duplicate",
        )


OPERATORS = (
    Operator(
        name="lemon",
        kind="width",
        grow=lemon,
        title="Whole copies, read unequally, and a rest that is silent to norms.",
        paper="LEMON (Wang et al., ICLR 2024, arXiv 2310.07999)",
        tensors={
            "embeddings": "columns copied; the rest: mean of the columns (LayerNorm) or zero (RMSNorm)",
            "attention": "whole heads copied in a circle, output columns shared unequally",
            "MLP": "units copied in a circle, readers share unequally",
            "norms": "gains copied × ρ, eps × ρ², ρ = √(k·d/D)",
            "biases": "copied as the axis they write",
            "head": "tied: kept tied, shares equal; untied: columns shared unequally",
        },
        function="kept at any width, pre-norm; at multiples, post-norm",
        gradient="kept where only MLP units and heads grow; a norm mixes the gradients of unequally read channels",
        escape="copies get unequal gradients, and part",
        use="exact growth whose copies part without noise",
        published_moments="reset",
        schedule="default maximal rate, faster decay (BERT 165k steps for 220k)",
        options={
            "split": "how many times as strongly each copy is read as the next; 1: evenly",
            "expansion": "what fills a stream that is no multiple: the mean (average), or more copies (circular)",
        },
    ),
)
