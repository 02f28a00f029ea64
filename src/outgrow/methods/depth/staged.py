"""Staged Training in depth (arXiv 2203.06211): every layer gains a copy, or an identity; beside it or at the end.

    order=alternate   0 1 2 → 0 0' 1 1' 2 2'          order=append   0 1 2 → 0 1 2 0' 1' 2'
    mode=copy         a new layer is a copy           mode=identity  a new layer outputs zero

The paper's identity (`zero=norms`) has zero norm gains and biases; it is exact only with all biases of the new layer zero
too. In a gated MLP both factors of the gradient are then zero, so that the MLP never learns (LLaMA-Pro's objection);
`zero=outputs`, the last matrix of each branch, is as exact and learns everywhere.
"""

from __future__ import annotations

from typing import Literal

from outgrow.growth.growth import Growth
from outgrow.methods.depth.layers import cannot, copied, repeats, spread
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def staged_layers(
    small: Model,
    large: Model,
    *,
    mode: Literal["identity", "copy"] = "identity",
    order: Literal["alternate", "append"] = "alternate",
    zero: Literal["outputs", "norms"] = "outputs",
    seed: int = 0,
) -> Growth:
    """Copies or identities of all layers, beside them or appended, at any depth.

    Keeps: function and gradient law with `mode=identity`; neither with `mode=copy`. Raises GrowthError for `zero=norms`
    in post-norm models, where a zero norm would wipe the stream.
    """
    layers = range(large.layers)
    alternate = order == "alternate"
    index = spread(small.layers, large.layers) if alternate else [layer % small.layers for layer in layers]
    if mode == "copy":
        return copied(small, large, index)
    if zero == "norms" and small.spec.layers.norm == "post":
        raise cannot(
            "staged",
            small,
            large,
            "a zero norm after the sum would wipe the stream",
            "use zero=outputs, or identity",
        )
    return copied(small, large, index, silent=repeats(index), silenced=zero)


OPERATORS = (
    Operator(
        name="staged",
        kind="depth",
        grow=staged_layers,
        title="Every layer gains a copy or an identity, beside it or at the end of the stack.",
        paper="Staged Training (Shen et al., arXiv 2203.06211)",
        tensors={
            "new norms": "copied; zero=norms: gain and bias zero",
            "new biases": "copied; zero=norms: all zero",
            "new branch outputs": "mode=identity: zero (weight and bias)",
            "every other tensor": "copied with its layer",
        },
        function="mode=identity: kept (zero=norms: under pre-norm); mode=copy: not kept",
        gradient="mode=identity: kept for old layers",
        escape="identities learn from step 1; with zero=norms a gated MLP never does (both factors of its gradient are zero)",
        use="reproducing the paper; zero=outputs is the form that learns everywhere",
        published_moments="keep_zero",
        schedule="the step goes back to where the target has this loss, then 150-200 steps of warm-up",
        options={
            "mode": "new layers add nothing at first (identity), or are plain copies (copy)",
            "order": "every new layer beside its original (alternate), or all on top (append)",
            "zero": "what silences an identity: the last matrix of each branch (outputs), or norms and biases (norms)",
        },
    ),
)
