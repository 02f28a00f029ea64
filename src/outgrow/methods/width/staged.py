"""Staged Training in width: block-diagonal copies (Shen et al., arXiv 2203.06211), any whole factor g.

    W' = blockdiag(W, ..., W) = Σ_p g · F_p W G_pᵀ        F_p, G_p: the maps of `duplicate`, restricted to copy p = 1..g

Everything else is duplicated: embeddings, biases and gains repeated, the last gain of a tied head divided by g. The stream is
[x, ..., x], so every copy computes what the small model does. The gradient of W' is g' / g in all g² blocks, not only on
the diagonal (docs/results/index.md, "Staged Training"): `--moments transport` holds the exact m / g and v / g² everywhere, `--moments parts`
what was published, blockdiag(m) / g and blockdiag(v) / g².
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from outgrow.algebra.axes import Role
from outgrow.algebra.linear import LinearMap, Select
from outgrow.algebra.maps import AxisMap
from outgrow.errors import GrowthError
from outgrow.growth.compensation import compensate
from outgrow.growth.growth import Growth, Part
from outgrow.methods.registry import Operator
from outgrow.methods.width.basic import duplicate
from outgrow.methods.width.units import growing, multiples, refuse_head_dim
from outgrow.models.model import Model, Parameter


def staged(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """g independent copies side by side: what is read and written by growing axes becomes block-diagonal.

    Keeps: function and gradient law, under every norm; caged without noise or dropout, although the zero blocks do learn.
    Raises GrowthError where axes do not all grow by one whole factor, and where head_dim grows.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.growth.target import target
    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> growth = staged(small, target(small, {"n_embd": 18, "n_head": 6}))
    >>> len(growth.parts["transformer.h.{L}.mlp.c_fc.weight"])
    3
    """
    factor = one_factor(small, large, "staged")
    growth = duplicate(small, large, seed=seed, noise=noise)
    return replace(growth, parts=block_diagonal(growth, factor))


def one_factor(small: Model, large: Model, operator: str) -> int:
    """The whole factor by which every growing axis grows (1 if none does)."""
    refuse_head_dim(small, large, operator)
    found = growing(small, large)
    for name, (before, after) in found.items():
        if after % before or after < before:
            raise GrowthError(
                f"{operator} sets whole copies side by side, and axis '{name}' ({small.axes[name].size}) is no multiple",
                got=f"{before} to {after}",
                expected=multiples(before, after),
                fix="choose a multiple, or use isometric, pad or lemon (any size)",
            )
    factors = {name: after // before for name, (before, after) in found.items()}
    if len(set(factors.values())) > 1 or {"kv_heads", "group"} <= set(factors):
        raise GrowthError(
            f"{operator} grows all axes by one factor",
            got=", ".join(f"{name} × {factor}" for name, factor in factors.items()),
            fix="choose one factor for all sizes that grow (heads per key/value head stay), or use duplicate or isometric",
        )
    return next(iter(factors.values()), 1)


def block_diagonal(growth: Growth, factor: int) -> dict[str, tuple[Part, ...]]:
    """The parts of every weight that both reads and writes growing axes: one per copy, times g since G carries 1/g.

    A fused matrix of which some rows do not grow (keys and values beside more queries) is duplicated whole: those rows read
    every copy, each by 1/g.
    """
    maps = compensate(growth).axes
    copies = [
        {name: _copy(axis, number) for name, axis in maps.items() if name in growth.small.axes and axis.grows}
        for number in range(factor)
    ]
    tokens = {name for name, spec in growth.small.axes.items() if spec.is_table}
    grows = {name for name, axis in maps.items() if axis.grows} - tokens

    def both(parameter: Parameter) -> bool:
        roles: tuple[Role, Role] = ("writes", "reads")
        grown = [
            {bool(grows.intersection(block)) for block in dim.products} for dim in parameter.signature.dims
        ]
        return all(parameter.signature.axes(role) & grows for role in roles) and {True, False} not in grown

    return {
        parameter.pattern: tuple(Part(axes=_without(one, tokens), coefficient=factor) for one in copies)
        for parameter in growth.large.parameters.values()
        if both(parameter)
    }


def _without(axes: Mapping[str, AxisMap], names: set[str]) -> dict[str, AxisMap]:
    return {name: axis for name, axis in axes.items() if name not in names}


def _copy(axis: AxisMap, number: int) -> AxisMap:
    """Both maps on the units of one copy alone: units number·d to (number + 1)·d."""
    return AxisMap(
        _rows(axis.forward, number, axis.small), _rows(axis.backward, number, axis.small), axis.fresh
    )


def _rows(map_: LinearMap, number: int, size: int) -> Select:
    return map_.as_gather().only(torch.arange(map_.outputs) // size == number)


OPERATORS = (
    Operator(
        name="staged",
        kind="width",
        grow=staged,
        title="g copies of the model side by side: every matrix becomes blockdiag(W, ..., W).",
        paper="Staged Training (Shen et al., ICML 2022, arXiv 2203.06211)",
        tensors={
            "embeddings": "columns repeated",
            "attention": "block-diagonal, whole heads: all heads of copy 1, then all heads of copy 2",
            "MLP": "block-diagonal",
            "norms": "gains and biases repeated; tied head: the last gain and bias × 1/g",
            "biases": "repeated",
            "head": "tied: kept tied; untied: columns × 1/g (ours: the paper's models are tied)",
        },
        function="kept at one whole factor for all axes, under every norm",
        gradient="kept under `transport` (m/g, v/g² in all g² blocks); published moments miss the off-diagonal blocks",
        escape="none without noise or dropout: halves stay exchangeable, though the zero blocks learn at once",
        use="to reproduce Staged Training; elsewhere duplicate with noise",
        published_moments="parts",
        schedule="learning rate and schedule position of the target model at this loss, re-warmed over 150-200 steps",
    ),
)
