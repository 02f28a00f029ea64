"""Random mapping: every new unit copies an old one drawn at random (Net2Net, arXiv 1511.05641; bert2BERT, ACL 2022).

    old units first, new unit r copies g(r);   W'[r, s] = W[g(r), g(s)] / |{t : g(t) = g(s)}|

One mapping per axis serves all layers, the stream's too: that is bert2BERT's FPI (arXiv 2110.07143). AKI takes the new
rows of layer l from layer l + 1 instead, the last layer's from itself, and so gives up the function for unlike copies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from outgrow.algebra.linear import LinearMap, Select
from outgrow.algebra.maps import AxisMap, copies
from outgrow.errors import GrowthError
from outgrow.growth.compensation import compensate
from outgrow.growth.growth import Growth, Part
from outgrow.methods.registry import Operator
from outgrow.methods.width.units import attention_axis, copied_heads, grow_width, growing
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import AxisSpec


def net2net(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0, visible: float = 0.0) -> Growth:
    """New units copy old ones drawn at random; readers divide by how often a unit was copied. Any size.

    `visible` is the paper's own noise on the fan-in of further copies, in initializer ranges: readers see it.
    Keeps: function and gradient law behind nonlinearities; not where a norm sees uneven copies (any LayerNorm or
    RMSNorm stream), and not with `visible`.

    >>> drawn("mlp", 3, 6, seed=0).tolist()[:3]
    [0, 1, 2]
    """
    growth = _mapped(small, large, seed, noise)
    if not visible:
        return growth
    _positive("net2net", "visible", visible)
    parts = {
        parameter.pattern: (Part(noise=visible, noise_on="writes"),)
        for parameter in large.parameters.values()
        if len(parameter.signature.dims) > 1
        and parameter.signature.axes("writes") & set(growing(small, large))
    }
    return replace(growth, parts=parts, inexact="copies get noise that their readers see" if parts else "")


def aki(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0) -> Growth:
    """Advanced knowledge initialization: what writes new units is taken from the next layer; readers as in Net2Net.

    Matrices and biases of layers follow; embeddings, norms and the head grow as in `net2net`. Keeps nothing exactly.
    """
    growth = _mapped(small, large, seed, noise)
    maps = compensate(growth).axes
    patterns = {one.pattern: one for one in large.parameters.values() if one.layer is not None}
    parts = {
        pattern: _next_layers_rows(parameter, maps)
        for pattern, parameter in patterns.items()
        if not _of_norm(large, parameter) and _written(parameter, maps)
    }
    return replace(growth, parts=parts, inexact="new units come from the next layer" if parts else "")


def drawn(name: str, before: int, after: int, *, seed: int) -> Tensor:
    """Which old unit each new unit copies: the old ones first, then one at random each."""
    draw = random.Random(f"{seed}/{name}")
    return torch.tensor([*range(before), *(draw.randrange(before) for _ in range(after - before))])


def _mapped(small: Model, large: Model, seed: int, noise: float) -> Growth:
    def index(name: str, before: int, after: int) -> Tensor:
        return drawn(name, before, after, seed=seed)

    def rule(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
        if spec.inside_head:
            return attention_axis(name, spec, small, large, power=0.0)
        return copies(index(name, small.sizes[name], large.sizes[name]), small.sizes[name])

    return grow_width(small, large, rule, copied_heads(small, large, index), seed, noise)


def _positive(operator: str, option: str, value: float) -> None:
    if not value >= 0:
        raise GrowthError(f"option {option} of width operator '{operator}'", got=value, expected="0 or more")


# ---- AKI ------------------------------------------------------------------------------------------------------------


def _of_norm(model: Model, parameter: Parameter) -> bool:
    """Whether this is a gain, or the bias beside one."""
    gain = model.parameters.get(f"{parameter.name.rsplit('.', 1)[0]}.weight")
    return gain is not None and gain.signature.is_gain


def _written(parameter: Parameter, maps: Mapping[str, AxisMap]) -> list[str]:
    """Axes that a tensor writes and that grow, in the order in which it holds them."""
    found: list[str] = []
    for dim in parameter.signature.dims:
        for block in dim.blocks if dim.role == "writes" else ():
            words = [*map(str, block), *(f"{one} {two}" for one, two in pairwise(map(str, block)))]
            found += [name for name in words if name in maps and maps[name].grows and name not in found]
    return found


def _next_layers_rows(parameter: Parameter, maps: Mapping[str, AxisMap]) -> tuple[Part, ...]:
    """Old units of all axes from this layer; units new in an axis, and old in those before it, from the next."""
    names = _written(parameter, maps)
    assert not parameter.signature.axes("reads") & set(names), "a tensor that reads what it writes"
    parts = [Part(axes={name: _only(maps[name], new=False) for name in names})]
    for place, name in enumerate(names):
        axes = {one: _only(maps[one], new=False) for one in names[:place]}
        parts.append(Part(axes={**axes, name: _only(maps[name], new=True)}, shift=1))
    return tuple(parts)


def _only(axis: AxisMap, *, new: bool) -> AxisMap:
    """Both maps on the first copies alone, or on all others."""
    return AxisMap(_rows(axis.forward, new), _rows(axis.backward, new), axis.fresh)


def _rows(map_: LinearMap, new: bool) -> Select:
    gather = map_.as_gather()
    return gather.only((gather.copy_numbers == 0) != new)


OPERATORS = (
    Operator(
        name="net2net",
        kind="width",
        grow=net2net,
        title="New units copy old ones drawn at random; readers divide by the number of copies.",
        paper="Net2Net (Chen et al., ICLR 2016, arXiv 1511.05641); FPI of bert2BERT (arXiv 2110.07143)",
        tensors={
            "embeddings": "columns copied by the stream's mapping",
            "attention": "whole heads copied at random, output columns × 1/c",
            "MLP": "units copied at random, readers × 1/c",
            "norms": "gains and biases copied; tied: the last ones divided by D/d",
            "biases": "copied as the axis they write",
            "head": "tied: kept tied; untied: columns × 1/c",
        },
        function="kept where only MLP units and heads grow; a norm over an unevenly copied stream breaks it",
        gradient="kept where the function is",
        escape="unevenly copied units part; `visible` noise parts all",
        use="MLP units and heads at any size; as the baseline of the field",
        published_moments="reset",
        schedule="learning rate about a tenth of the original (Net2Net)",
        options={
            "visible": "noise on further copies that readers do see, in initializer ranges; the paper's own. 0: none",
        },
    ),
    Operator(
        name="aki",
        kind="width",
        grow=aki,
        title="As net2net, but what writes new units is taken from the next layer.",
        paper="bert2BERT, advanced knowledge initialization (Chen et al., ACL 2022, arXiv 2110.07143)",
        tensors={
            "embeddings": "as net2net",
            "attention": "query, key, value rows of new heads and output rows of new channels from the next layer",
            "MLP": "rows of new units, and of new channels, from the next layer",
            "norms": "as net2net",
            "biases": "of new units: from the next layer",
            "head": "as net2net",
        },
        function="not kept: new units are other units (the last layer's are its own)",
        gradient="not kept",
        escape="new units differ from the start",
        use="to reproduce bert2BERT, which found it to converge faster than FPI",
        published_moments="reset",
    ),
)
