"""The registry of growth operators, and how a width and a depth operator make one growth.

An operator is a pure function of two models, `(small, large, *, seed, **own) -> Growth`: it sees sizes, never tensors
or files. Adding one is adding a function and its entry in its family's file (CONTRIBUTING, "add an operator").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outgrow.algebra.maps import AxisMap
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part, no_layers, no_width
from outgrow.growth.target import target
from outgrow.methods.depth import basic as depths
from outgrow.methods.depth import gstack, middle, progressive, upscaling
from outgrow.methods.depth import lemon as lemon_depth
from outgrow.methods.depth import staged as staged_depth
from outgrow.methods.registry import Operator, find
from outgrow.methods.width import basic as widths
from outgrow.methods.width import hypercloning, lemon, msg, mup, net2net, sparkling, staged
from outgrow.models.architecture import resolve
from outgrow.models.model import Model

_MOST_NOISE = 1000.0  # in units of the initializer range; more would only destroy

__all__ = ["DEPTH", "USUAL", "WIDTH", "Operator", "build", "unusual", "usual_width"]

USUAL: Mapping[str, Any] = {"width": None, "depth": "stack", "noise": 0.1, "seed": 0}
"""How a state grows where nobody says: no width is the `usual_width` of the model."""

_WIDTHS = (widths, net2net, staged, lemon, hypercloning, msg, sparkling, mup)
_DEPTHS = (depths, staged_depth, gstack, middle, upscaling, progressive, lemon_depth)
_FAMILIES = tuple(family.OPERATORS for family in (*_WIDTHS, *_DEPTHS))
WIDTH: dict[str, Operator] = {one.name: one for family in _FAMILIES for one in family if one.kind == "width"}
DEPTH: dict[str, Operator] = {one.name: one for family in _FAMILIES for one in family if one.kind == "depth"}


def unusual(**asked: Any) -> list[str]:
    """Names of what was asked for and is not usual.

    >>> unusual(depth="stack", noise=0.0)
    ['noise']
    """
    return [name for name, value in asked.items() if value != USUAL[name]]


def usual_width(small: Model) -> str:
    """The width operator where none is named: `pad`, the best of all in benchmarks/operators.py.

    It cannot pass a stream whose LayerNorm stands after the sum, nor LayerScale: `isometric` there.
    """
    stream = next(name for name, spec in small.axes.items() if spec.through == "stream")
    return "isometric" if small.spec.layers.norm == "post" or small.is_scaled(stream) else "pad"


def build(
    small: Model,
    to: Mapping[str, Any],
    *,
    width: str | None = None,
    depth: str = USUAL["depth"],
    noise: float = 0.0,
    seed: int = 0,
) -> Growth:
    """The growth of a model to the sizes in `to`: first in depth, then in width, as one.

    `width` and `depth` name operators, with options behind a colon (`solar:overlap=8`); without a width, the
    `usual_width` of the model. Raises GrowthError for unknown operators (naming the near ones), sizes that do not fit, and what an operator cannot do.

    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> build(small, {"hidden_size": 12, "n_layer": 2}).layers.large
    2
    """
    width = usual_width(small) if width is None else width
    widening, width_options = find(width, "width", WIDTH)
    deepening, depth_options = find(depth, "depth", DEPTH)
    large = target(small, to)
    if not 0 <= noise <= _MOST_NOISE:
        raise GrowthError("noise is a standard deviation", got=noise, expected=f"0 to {_MOST_NOISE:g}")
    if deepening.needs_layers and large.layers and not small.layers:
        raise GrowthError(
            f"depth operator '{depth}' copies layers, and this model has none ({small.spec.layers.count} = 0)",
            fix=f"use {' or '.join(name for name, one in DEPTH.items() if not one.needs_layers)}",
        )
    deeper = resolve({**small.config, small.spec.layers.count: large.layers})
    deepened = Growth(small, deeper, no_width(small), no_layers(small))
    if large.layers > small.layers:
        deepened = deepening.grow(small, deeper, seed=seed, **depth_options)
    widened = widening.grow(small, large, seed=seed, noise=noise, **width_options)
    asked: dict[str, Any] = {"width": width, "noise": noise, "seed": seed}
    return replace(
        widened,
        layers=deepened.layers,
        parts=_joined(deepened, widened),
        inexact="; ".join(filter(None, (deepened.inexact, widened.inexact))),
        provenance=(({"depth": depth},) if deepened.layers.grows else ()) + (asked,),
    )


def _joined(deepened: Growth, widened: Growth) -> dict[str, tuple[Part, ...]]:
    """Parts of both: every weight's depth parts, each under every width part."""
    joined: dict[str, tuple[Part, ...]] = {}
    for name, parameter in deepened.large.parameters.items():
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
