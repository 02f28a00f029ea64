"""Growing in depth: which layer a new layer copies.

    stack        0 1 2 → 0 1 2 0 1 2       (StackBERT, ICML 2019; G_stack, arXiv 2405.15319): trains best, not exact
    interleave   0 1 2 → 0 0 1 1 2 2       (interposition, arXiv 2510.08008): not exact
    identity     0 1 2 → 0 · 1 · 2 ·       copies whose branches output zero (Staged Training, arXiv 2203.06211): exact

The identity of a pre-norm block zeroes the last matrix of each branch and copies the rest, so that every new weight
learns from the second step on; a post-norm block also moves the last norm (docs/explanation/maths.md).
"""

from __future__ import annotations

from outgrow.growth.growth import Growth
from outgrow.methods.depth.layers import copied, repeats, spread
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def stack(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """The whole sequence of layers again and again, cut at the new depth.

    Keeps: neither function nor gradient law; moments are copied with their layers.
    """
    return copied(small, large, [layer % small.layers for layer in range(large.layers)])


def interleave(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """Every layer next to its copies, as evenly as the sizes allow.

    Keeps: neither function nor gradient law; moments are copied with their layers.
    """
    return copied(small, large, spread(small.layers, large.layers))


def identity_layers(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """After every layer a silent copy of it, as evenly as the sizes allow: the function and the gradient law are kept."""
    index = spread(small.layers, large.layers)
    return copied(small, large, index, silent=repeats(index))


_COPIED = {"every tensor": "copied with its layer, moments too; embeddings and head stay"}

OPERATORS = (
    Operator(
        name="stack",
        kind="depth",
        grow=stack,
        title="The whole sequence of layers again and again: 0 1 2 → 0 1 2 0 1 2.",
        paper="StackBERT (Gong et al., ICML 2019); G_stack (arXiv 2405.15319)",
        tensors=_COPIED,
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="the default: early growth, constant learning rate",
        schedule="own warm-up and full schedule (G_stack)",
    ),
    Operator(
        name="interleave",
        kind="depth",
        grow=interleave,
        title="Every layer next to its copies: 0 1 2 → 0 0 1 1 2 2.",
        paper="interposition (arXiv 2510.08008)",
        tensors=_COPIED,
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="converged models: norms keep their trend over depth",
    ),
    Operator(
        name="identity",
        kind="depth",
        grow=identity_layers,
        title="After every layer a silent copy of it: the last matrix of each branch is zero.",
        paper="Staged Training (arXiv 2203.06211); LLaMA-Pro (arXiv 2401.02415)",
        tensors={
            "branch outputs": "zero (weight and bias)",
            "norms": "copied; post-norm: the last norm moves to the last silent layer",
            "every other tensor": "copied with its layer",
        },
        function="kept, under every norm",
        gradient="kept: old layers see the same gradients",
        escape="zeroed matrices learn from step 1, all else from step 2",
        use="growth that must not lose anything, and short continuations",
        published_moments="keep_zero",
    ),
)
