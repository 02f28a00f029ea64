"""Growth under the maximal-update parametrisation: copies or shrunk weights, perturbed at the larger width's own scale.

    upscale   W' = duplicate(W) + σ·√(d_in / D_in)·N          (µ-pscaling, arXiv 2602.10545; rms of W times σ)
    szp       W' = λ·[[W, 0], [0, 0]] + σ·√(d_in / D_in)·N    (shrink, zero-pad, perturb: arXiv 2605.13405)

µP lets one learning rate serve all widths. What it asks of AdamW, per tensor, is `mup_multipliers`: with σ = 0 and those,
the copied model's trajectory is the small model's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from outgrow.algebra.axes import Dim
from outgrow.algebra.linear import LinearMap
from outgrow.algebra.maps import AxisMap, padding
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part
from outgrow.growth.plan import GrowthPlan
from outgrow.methods.registry import Operator
from outgrow.methods.width.basic import duplicate
from outgrow.methods.width.msg import new_gains
from outgrow.methods.width.units import (
    as_given,
    grow_width,
    growing,
    head_axes,
    refuse_fewer_queries,
    refuse_head_dim,
)
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import AxisSpec


def upscale(small: Model, large: Model, *, seed: int = 0, noise: float = 0.0, perturb: float = 0.0) -> Growth:
    """Even copies, plus noise of `perturb` times each weight's root mean square, shrinking with the width it reads.

    Keeps: with perturb=0, function, gradient law and (under `mup_multipliers`) the AdamW trajectory; else none of them.
    Raises GrowthError where a size is no multiple.
    """
    _check("upscale", "perturb", perturb)
    growth = duplicate(small, large, seed=seed, noise=noise)
    if not perturb or not growing(small, large):
        return growth
    parts = {pattern: (Part(noise=perturb * share),) for pattern, share in _shares(small, large).items()}
    why = "weights are perturbed, and readers see it"
    return replace(growth, noise=0.0, noise_unit="weight", parts=parts, inexact=why)


def szp(
    small: Model,
    large: Model,
    *,
    seed: int = 0,
    noise: float = 0.0,
    shrink: float = 0.4,
    perturb: float = 1.0,
) -> Growth:
    """Shrink every matrix by λ, pad it with zeros, and add a new initialization at `perturb` initializer ranges.

    Norms and biases stay, new gains are 1. `shrink` 0.4 and `perturb` 1 are our defaults. Nothing is copied, so `noise`
    is left out. Keeps: nothing exactly. Raises GrowthError for head_dim.
    """
    _check("szp", "perturb", perturb)
    _check("szp", "shrink", shrink)
    refuse_head_dim(small, large, "szp")
    refuse_fewer_queries(small, large, "szp")
    heads = {name: padding(small.sizes[name], large.sizes[name], fresh="none") for name in head_axes(small)}
    growth = grow_width(small, large, _silent, heads, seed, noise=0.0)
    if not growing(small, large):
        return growth
    growth = as_given(growth, {})
    parts = {
        pattern: (Part(coefficient=shrink, noise=perturb * share),)
        for pattern, share in _shares(small, large).items()
    }
    return replace(
        growth, parts={**parts, **new_gains(growth)}, inexact="weights are shrunk, padded and perturbed"
    )


@dataclass(frozen=True)
class Multiplier:
    """What µP asks of AdamW for one tensor, as factors on the small model's options."""

    learning_rate: float
    eps: float
    weight_decay: float


def mup_multipliers(plan: GrowthPlan) -> dict[str, Multiplier]:
    """AdamW's options per tensor under which widths share their hyper-parameters (Tensor Programs V, table 8).

        learning rate  d_in / D_in · w        eps  d_out / D_out / w        decay  1 / learning rate

    d_in and d_out are the sizes that a tensor reads and writes (tokens and positions apart), w what its copies are
    multiplied with as they are written (1, but for the last gain of a tied head). Under even copies they make training
    commute with growth. Raises GrowthError where copies of one tensor are written unequally.
    """
    found = {}
    for name, parameter in plan.large.parameters.items():
        rate, eps = 1.0, 1.0
        terms = plan.recipes["weight"][name].terms
        for place, dim in enumerate(parameter.signature.dims):
            share = _ratio(dim, plan.small, plan.large)
            if dim.role == "reads":
                rate *= share
            else:
                written = _weight(terms[0].maps[place], name) if terms else 1.0
                rate, eps = rate * written, eps * share / written
        found[name] = Multiplier(rate, eps, 1 / rate)
    return found


def _shares(small: Model, large: Model) -> dict[str, float]:
    """√(d_in / D_in) of every matrix, by its pattern."""
    return {
        parameter.pattern: sqrt(_fan_in(parameter, small, large))
        for parameter in large.parameters.values()
        if len(parameter.signature.dims) > 1
    }


def _fan_in(parameter: Parameter, small: Model, large: Model) -> float:
    share = 1.0
    for dim in parameter.signature.dims:
        share *= _ratio(dim, small, large) if dim.role == "reads" else 1.0
    return share


def _ratio(dim: Dim, small: Model, large: Model) -> float:
    """d / D of a dimension; tokens and positions do not count."""
    if any(small.axes[name].is_table for name in dim.axes):
        return 1.0
    return dim.size(small.sizes) / dim.size(large.sizes)


def _weight(map_: LinearMap, name: str) -> float:
    """The one number that a map multiplies its units with."""
    if map_.is_identity:
        return 1.0
    gather = map_.gather
    weights = gather.weight[map_.covered()] if gather is not None else map_.matrix()[map_.matrix() != 0]
    first = float(weights[0])
    if float((weights - first).abs().max()) > 1e-12 * abs(first):
        raise GrowthError(f"'{name}' has copies of unequal weight: no single learning-rate multiplier fits")
    return first


def _silent(name: str, spec: AxisSpec, small: Model, large: Model) -> AxisMap:
    return padding(small.sizes[name], large.sizes[name], fresh="none")


def _check(operator: str, option: str, value: float) -> None:
    if not value >= 0:
        raise GrowthError(f"option {option} of width operator '{operator}'", got=value, expected="0 or more")


OPERATORS = (
    Operator(
        name="upscale",
        kind="width",
        grow=upscale,
        title="Even copies plus noise that shrinks with the width, for models under µP.",
        paper="µ-pscaling (ICML 2026, arXiv 2602.10545)",
        tensors={
            "embeddings": "columns repeated, perturbed",
            "attention": "whole heads repeated, input × 1/n, perturbed",
            "MLP": "units repeated, readers × 1/n, perturbed",
            "norms": "gains repeated; tied: the last gain × 1/n",
            "biases": "repeated",
            "head": "tied: kept tied; untied: columns × 1/n, perturbed",
        },
        function="kept at multiples with perturb=0",
        gradient="kept with perturb=0, and the AdamW trajectory with `mup_multipliers`",
        escape="perturb",
        use="one learning rate for all widths",
        published_moments="transport",
        schedule="learning rate, eps and decay per tensor by µP (`outgrow.methods.width.mup.mup_multipliers`)",
        options={
            "perturb": "noise that readers see, in each weight's root mean square; 0: none, and all is kept",
        },
    ),
    Operator(
        name="szp",
        kind="width",
        grow=szp,
        title="Shrink every matrix, pad it with zeros, add a new initialization.",
        paper="Warmstarting for scaling (Mallik et al., arXiv 2605.13405)",
        tensors={
            "embeddings": "× λ, new columns zero, all perturbed",
            "attention": "× λ, new heads zero, all perturbed",
            "MLP": "× λ, new units zero, all perturbed",
            "norms": "old gains stay, new ones 1; eps stays",
            "biases": "new ones zero",
            "head": "as other matrices",
        },
        function="not kept",
        gradient="not kept",
        escape="nothing is copied",
        use="hyper-parameter search: near factor 2, and below 20 tokens per parameter",
        published_moments="reset",
        schedule="a new run under µP, with the small model's tuned options",
        options={
            "shrink": "λ, by which every old matrix is multiplied",
            "perturb": "size of the new initialization that is added, in initializer ranges",
        },
    ),
)
