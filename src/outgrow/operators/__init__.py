"""The registry of growth operators, and how a width and a depth operator make one growth.

An operator is a pure function of two models, `(small, large, *, seed, **own) -> Growth`: it sees sizes, never tensors
or files. Adding one is adding a function and its name here (CONTRIBUTING, "add an operator").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outgrow.architectures import Model, resolve
from outgrow.errors import GrowthError, near
from outgrow.growth import Growth, target
from outgrow.operators.depth import DEPTH
from outgrow.operators.width import WIDTH

__all__ = ["DEPTH", "WIDTH", "build"]


def build(
    small: Model,
    to: Mapping[str, Any],
    *,
    width: str = "isometric",
    depth: str = "stack",
    noise: float = 0.0,
    seed: int = 0,
) -> Growth:
    """The growth of a model to the sizes in `to`: first in depth, then in width, as one.

    Raises GrowthError for unknown operators (naming the near ones), sizes that do not fit, and what an operator cannot do.

    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> build(small, {"hidden_size": 12, "n_layer": 2}).layers.large
    2
    """
    for kind, name, registry in (("width", width, WIDTH), ("depth", depth, DEPTH)):
        if name not in registry:
            raise GrowthError(f"unknown {kind} operator '{name}' ({near(name, registry)})")
    large = target(small, to)
    if noise < 0:
        raise GrowthError("noise is a standard deviation", got=noise, expected="0 or more")
    deeper = resolve({**small.config, small.spec.layers.count: large.layers})
    deepened = DEPTH[depth](small, deeper, seed=seed)
    widened = WIDTH[width](small, large, seed=seed, noise=noise)
    provenance = deepened.provenance if deepened.layers.grows else ()
    return replace(widened, layers=deepened.layers, provenance=(*provenance, *widened.provenance))
