"""The registry of growth operators, and how a width and a depth operator make one growth.

An operator is a pure function of two models, `(small, large, *, seed, **own) -> Growth`: it sees sizes, never tensors
or files. Adding one is adding a function and its entry in its family's file (CONTRIBUTING, "add an operator").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from outgrow.algebra.maps import AxisMap, LayerMap
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part, no_layers, no_width
from outgrow.growth.target import target
from outgrow.methods.depth import basic as depths
from outgrow.methods.depth import gstack, middle, progressive, upscaling
from outgrow.methods.depth import lemon as lemon_depth
from outgrow.methods.depth import staged as staged_depth
from outgrow.methods.experts import basic as expert_operators
from outgrow.methods.options import USUAL, GrowthOptions
from outgrow.methods.registry import Asked, Operator, find
from outgrow.methods.width import basic as widths
from outgrow.methods.width import hypercloning, lemon, msg, mup, net2net, sparkling, staged
from outgrow.models.architecture import growable
from outgrow.models.expressions import fields
from outgrow.models.model import Model

__all__ = ["DEPTH", "EXPERTS", "WIDTH", "Operator", "build", "usual_width"]

_WIDTHS = (widths, net2net, staged, lemon, hypercloning, msg, sparkling, mup)
_DEPTHS = (depths, staged_depth, gstack, middle, upscaling, progressive, lemon_depth)
_FAMILIES = tuple(family.OPERATORS for family in (*_WIDTHS, *_DEPTHS))
WIDTH: dict[str, Operator] = {one.name: one for family in _FAMILIES for one in family if one.kind == "width"}
EXPERTS: dict[str, Operator] = {one.name: one for one in expert_operators.OPERATORS}
DEPTH: dict[str, Operator] = {one.name: one for family in _FAMILIES for one in family if one.kind == "depth"}


def usual_width(small: Model) -> str:
    """The width operator where none is named: `pad`, the best of all in benchmarks/operators.py.

    It cannot pass a stream whose LayerNorm stands after the sum, nor LayerScale, nor a stream that a nonlinearity writes:
    `isometric` there.
    """
    stream = next(name for name, spec in small.axes.items() if spec.is_stream)
    asks = small.spec.layers.norm == "post" or small.is_scaled(stream) or small.axes[stream].unscaled
    return "isometric" if asks else "pad"


def build(
    small: Model,
    to: Mapping[str, Any],
    *,
    width: str | None = None,
    depth: str = USUAL.depth,
    experts: str | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> Growth:
    """The growth of a model to the sizes in `to`: first in depth, then in width, then in experts, as one.

    `width`, `depth` and `experts` name operators, with options behind a colon (`solar:overlap=8`); without a width, the
    `usual_width` of the model. Raises GrowthError for unknown operators (naming the near ones), sizes that do not fit, and what an operator cannot do.

    >>> from outgrow.models.architecture import resolve
    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> build(small, {"hidden_size": 12, "n_layer": 2}).layers.large
    2
    """
    GrowthOptions(width=width, depth=depth, experts=experts, noise=noise, seed=seed)  # refuses what cannot be
    width = usual_width(small) if width is None else width
    widening, width_options = find(width, "width", WIDTH)
    deepening, depth_options = find(depth, "depth", DEPTH)
    sparser = _experts_asked(small, to, experts)
    large = target(small, to if sparser is None else sparser.plain)
    if deepening.needs_layers and large.layers and not small.layers:
        raise GrowthError(
            f"depth operator '{depth}' copies layers, and this model has none ({small.spec.layers.count} = 0)",
            fix=f"use {' or '.join(name for name, one in DEPTH.items() if not one.needs_layers)}",
        )
    deepened = Growth(small, small, no_width(small), no_layers(small))
    if large.layers > small.layers:
        deeper = target(small, {small.spec.layers.count: large.layers})
        deepened = deepening.grow(small, deeper, seed=seed, **depth_options)
        large = target(small, to, deepened.layers)
    widened = widening.grow(small, large, seed=seed, noise=noise, **width_options)
    asked: dict[str, Any] = {"width": width, "noise": noise, "seed": seed}
    parts = _joined(deepened, widened)
    if sparser is not None:
        widened = _with_experts(widened, sparser, parts, seed, deepened.layers)
        asked["experts"] = sparser.text
    return replace(
        widened,
        layers=deepened.layers,
        parts={**parts, **(widened.parts if sparser is not None else {})},
        inexact="; ".join(filter(None, (deepened.inexact, widened.inexact))),
        provenance=(({"depth": depth},) if deepened.layers.grows else ()) + (asked,),
    )


@dataclass(frozen=True)
class _Sparser:
    """What is asked of the experts: the operator, its sizes, and what is left for width and depth."""

    text: str
    operator: Operator
    options: Mapping[str, Any]
    asked: Asked
    plain: Mapping[str, Any]


def _experts_asked(small: Model, to: Mapping[str, Any], text: str | None) -> _Sparser | None:
    """The experts' part of what is asked; None where nothing of it changes.

    Raises GrowthError where an operator on experts is named and the model has none.
    """
    if not small.spec.routers:
        if text is not None:
            raise GrowthError(
                f"experts '{text}' needs a model with experts, and this is a {small.spec.model_type}",
                fix="describe it as a mixture first: --as mixtral (`outgrow convert` lists what there is)",
            )
        return None
    counts = {name for name, axis in growable(small.spec).items() if axis in _expert_axes(small)}
    names = {asked: small.spec.aliases.get(asked, asked) for asked in to}
    if text is None and not counts & set(names.values()):
        return None
    text = text or "copy"
    operator, options = find(text, "experts", EXPERTS)
    asked = Asked(to) if operator.sizes is None else operator.sizes(small, to, **options)
    inner = {one for axis in asked.finer for one in fields(small.axes[axis].size)}
    left = {name: to[name] for name, own in names.items() if own not in counts | inner}
    return _Sparser(text, operator, options, asked, left)


def _expert_axes(small: Model) -> set[str]:
    return {one.experts for one in small.spec.routers.values()}


def _with_experts(
    widened: Growth, sparser: _Sparser, parts: Mapping[str, Any], seed: int, layers: LayerMap
) -> Growth:
    """A growth in width with experts that grow beside it. Raises GrowthError where both change the same tensor."""
    small = widened.small
    large = target(small, sparser.asked.to, layers if layers.grows else None, finer=sparser.asked.finer)
    mixed = sparser.operator.grow(small, large, seed=seed, **sparser.options)
    taken = {large.parameters[name].pattern for name in parts}
    wider = [one.inner for one in mixed.experts if widened.axes[one.inner].grows]
    if (mixed.parts and wider) or taken & set(mixed.parts):
        raise GrowthError(
            f"experts '{sparser.text}' and the growth in width or depth change the same tensors",
            got=", ".join(wider) or sorted(taken & set(mixed.parts))[0],
            fix="grow twice: the experts first",
        )
    own = {name for one in mixed.experts for name in (one.router.experts, one.router.choices)}
    own |= sparser.asked.finer
    grows = any(axis.grows for axis in widened.axes.values())
    return replace(
        widened,
        large=large,
        axes={**widened.axes, **{name: mixed.axes[name] for name in own}},
        noise=widened.noise if grows else 0.0,
        parts=mixed.parts,
        experts=mixed.experts,
    )


def _joined(deepened: Growth, widened: Growth) -> dict[str, tuple[Part, ...]]:
    """Parts of both: every weight's depth parts, each under every width part."""
    joined: dict[str, tuple[Part, ...]] = {}
    for name, parameter in widened.large.parameters.items():
        deep = deepened.parts.get(name) or deepened.parts.get(parameter.pattern)
        wide = widened.parts.get(name) or widened.parts.get(parameter.pattern)
        if deep or wide:
            joined[name] = tuple(
                replace(
                    outer,
                    axes={**outer.axes, **_widened_axes(inner, outer, widened)},
                    layers=inner.layers or outer.layers,
                    shift=inner.shift + outer.shift,
                    coefficient=inner.coefficient * outer.coefficient,
                    noise=inner.noise if inner.noise and place == 0 else outer.noise,
                )
                for inner in deep or (Part(),)
                for place, outer in enumerate(wide or (Part(),))
            )
    return joined


def _widened_axes(inner: Part, outer: Part, widened: Growth) -> dict[str, AxisMap]:
    """Maps that depth gives a weight at the old width, followed by the growth in width."""
    return {name: axis.then(outer.axes.get(name) or widened.axes[name]) for name, axis in inner.axes.items()}
