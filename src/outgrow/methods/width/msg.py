"""Random growth: old weights stay, everything new is drawn (MSG, arXiv 2305.02869; `random` of G_stack, 2405.15319).

    W' = [[W, N], [N, N]],   N ~ N(0, initializer_range²),   gain' = [gain, 1],   bias' = [bias, 0]

In the paper every new unit stands behind a mask that opens from 0 to 1 over some thousand steps, so that the function is
kept when growth happens; without masks, as here, it is not.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from outgrow.algebra.linear import EMPTY, LinearMap, Select
from outgrow.algebra.maps import AxisMap, padding
from outgrow.growth.growth import Growth, Part, joined_maps
from outgrow.methods.registry import Operator
from outgrow.methods.width.units import (
    as_given,
    grow_width,
    growing,
    head_axes,
    refuse_fewer_queries,
    refuse_head_dim,
)
from outgrow.models.model import Model
from outgrow.models.spec import AxisSpec


def msg(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """New units random on both sides, norm gains 1: nothing is copied, so `noise` has nothing to part and is left out.

    Keeps: the old weights, not the function. Raises GrowthError for head_dim and for fewer query heads per key/value head.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.growth.target import target
    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> msg(small, target(small, {"n_embd": 9, "n_head": 3})).axes["embed"].fresh
    'both'
    """
    refuse_head_dim(small, large, "msg")
    refuse_fewer_queries(small, large, "msg")
    heads = {name: padding(small.sizes[name], large.sizes[name], fresh="both") for name in head_axes(small)}
    growth = grow_width(small, large, _rule, heads, seed, noise=0.0)
    if not growing(small, large):
        return growth
    growth = as_given(growth, {})
    return replace(growth, parts=new_gains(growth), inexact="new units are random on both sides")


def _rule(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    return padding(small.sizes[name], large.sizes[name], fresh="both")


def new_gains(growth: Growth) -> dict[str, tuple[Part, ...]]:
    """Gains of new channels are 1, as in a new norm. Those of a norm behind a branch follow its input: the mean of the old."""
    found: dict[str, tuple[Part, ...]] = {}
    for parameter in growth.large.parameters.values():
        dim = parameter.signature.dims[0]
        if dim.role == "scales" and not dim.raw:
            gain = joined_maps(dim.blocks, growth.gains or {})
            if gain.grows:
                found[parameter.pattern] = (Part(), Part(source=1.0, maps=(_new(gain.forward),)))
    return found


def _new(map_: LinearMap) -> LinearMap:
    """A map that gives new units the (constant) first input, and old ones nothing."""
    assert not map_.is_identity
    new = ~map_.covered()
    return Select(torch.where(new, 0, EMPTY), new.to(torch.float64), map_.inputs)


OPERATORS = (
    Operator(
        name="msg",
        kind="width",
        grow=msg,
        title="Old weights stay; everything new is drawn at random, on both sides.",
        paper="MSG (Yao et al., ICLR 2024, arXiv 2305.02869) without its masks; `random` of G_stack (arXiv 2405.15319)",
        tensors={
            "embeddings": "new columns random",
            "attention": "new heads random, read and written",
            "MLP": "new units random, read and written",
            "norms": "old gains stay, new ones 1; eps stays",
            "biases": "new ones zero",
            "head": "new columns random",
        },
        function="not kept at the moment of growth: the paper's masks would keep it",
        gradient="not kept",
        escape="nothing is copied",
        use="with masks over many small steps (MSG); as a baseline (G_stack)",
        published_moments="keep_zero",
        schedule="scheduler goes on at the new size; masks open over some thousand steps",
    ),
)
