"""G_stack (arXiv 2405.15319): the trained model stacked g times in one hop, M → M ∘ M ∘ ... ∘ M.

    new layer j copies layer j mod L;   with `noise=a`, copies after the first:  W' = (1 - a)·W + a·ε,  ε ~ N(0, σ²)

ε is a fresh initialization: σ is the model's initializer range. It goes into matrices; norms and biases stay copies. The
paper finds a = 0.2 slightly better than 0, and more than that worse; the copies are the layers it mixes noise into.
"""

from __future__ import annotations

from dataclasses import replace

from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part
from outgrow.methods.depth.layers import cannot, copied
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def gstack(small: Model, large: Model, *, noise_share: float = 0.0, seed: int = 0) -> Growth:
    """The whole stack g times, copies mixed with a share of noise.

    Keeps: neither function nor gradient law. Raises GrowthError where the depth is no multiple, or the share is not in [0, 1].
    """
    if not 0 <= noise_share <= 1:
        raise GrowthError(
            "noise_share of gstack is a share", got=noise_share, expected="0 to 1; the paper: 0.2"
        )
    if large.layers % small.layers:
        low = large.layers // small.layers * small.layers
        raise cannot(
            "gstack",
            small,
            large,
            "it repeats the whole stack, and this is no multiple",
            f"choose {low} or {low + small.layers} layers, or use stack (any depth)",
        )
    growth = copied(small, large, [layer % small.layers for layer in range(large.layers)], seed=seed)
    if not noise_share:
        return growth
    mixed = (Part(coefficient=1 - noise_share, noise=noise_share),)
    parts = {
        name: mixed
        for name, parameter in large.parameters.items()
        if parameter.layer is not None
        and parameter.layer >= small.layers
        and len(parameter.signature.dims) > 1
    }
    return replace(growth, parts=parts, inexact="copies hold a share of noise" if parts else "")


OPERATORS = (
    Operator(
        name="gstack",
        kind="depth",
        grow=gstack,
        title="The trained model stacked g times in one hop, with an optional share of noise in the copies.",
        paper="G_stack (Du et al., arXiv 2405.15319)",
        tensors={
            "matrices of copies": "copied; noise_share=a: (1 - a)·W + a·N(0, initializer range²)",
            "norms and biases": "copied with their layers",
            "embeddings and head": "stay",
        },
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="early growth by a factor of 2 to 4 (the paper's best), in one hop",
        published_moments="reset",
        schedule="fresh optimizer, own warm-up (3000 steps) and cosine",
        options={
            "noise_share": "share of random weights in every copy, 0 to 1",
        },
    ),
)
