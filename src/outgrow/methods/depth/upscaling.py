"""Depth up-scaling of released models: SOLAR (arXiv 2312.15166) and LLaMA-Pro (arXiv 2401.02415).

SOLAR       one copy without its last m layers, then one without its first m:  L' = 2(L - m)
LLaMA-Pro   after every P layers a copy of the last of them that outputs zero (W_O = W_down = 0)
"""

from __future__ import annotations

from math import gcd

from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.methods.depth.layers import cannot, copied, repeats
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def solar(small: Model, large: Model, *, overlap: int = -1, seed: int = 0) -> Growth:
    """The stack without its last `overlap` layers, then the stack without as many first ones as reach the new depth.

    The paper cuts the same number on both sides, which is the default (-1). Keeps: neither function nor gradient law.
    Raises GrowthError beyond twice the depth.
    """
    cut = 2 * small.layers - large.layers
    if cut < 0:
        instead = f"choose at most {2 * small.layers} layers, or use stack, gstack or interleave"
        raise cannot("solar", small, large, "two copies are not enough", instead)
    last = cut // 2 if overlap == -1 else overlap
    if not 0 <= last <= cut:
        raise GrowthError(
            f"overlap of solar: {large.layers} layers are two copies of {small.layers} less {cut} layers in all",
            got=overlap,
            expected=f"0 to {cut} layers cut from the first copy",
        )
    return copied(small, large, [*range(small.layers - last), *range(cut - last, small.layers)])


def llama_pro(small: Model, large: Model, *, every: int = 0, seed: int = 0) -> Growth:
    """After every `every` layers, silent copies of the last of them (0: spread as evenly as the depths allow).

    Keeps: function and gradient law. Raises GrowthError where groups of `every` layers do not divide the depths.
    """
    new, old = large.layers - small.layers, small.layers
    groups = old // every if every > 0 else 0
    if every and (groups == 0 or old % every or new % groups):
        why = f"groups of {every} layers cannot share {new} new ones evenly"
        best = old // gcd(old, new)
        raise cannot("llama_pro", small, large, why, f"use every={best}, every=0 (spread), or identity")
    copies = (
        [new // groups * ((layer + 1) % every == 0) for layer in range(old)] if every else shared(new, old)
    )
    index = [layer for layer in range(old) for _ in range(1 + copies[layer])]
    return copied(small, large, index, silent=repeats(index))


def shared(new: int, old: int) -> list[int]:
    """How many of `new` layers stand behind each of `old` ones, as evenly as whole numbers allow, the last one first in turn.

    >>> shared(5, 12), shared(4, 3)
    ([0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1], [1, 1, 2])
    """
    return [(layer + 1) * new // old - layer * new // old for layer in range(old)]


OPERATORS = (
    Operator(
        name="solar",
        kind="depth",
        grow=solar,
        title="Two copies of the stack, the first without its last layers, the second without its first.",
        paper="SOLAR depth up-scaling (Kim et al., arXiv 2312.15166)",
        tensors={"every tensor": "copied with its layer; embeddings and head stay"},
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="up-scaling a released model by up to 2, with continued pre-training (32 → 48 layers in the paper)",
        schedule="continued pre-training with a schedule of its own",
        options={
            "overlap": "layers that the first copy of the stack leaves out at its top; -1: as many as the second at its bottom",
        },
    ),
    Operator(
        name="llama_pro",
        kind="depth",
        grow=llama_pro,
        title="After every few layers a silent copy of the last of them.",
        paper="LLaMA-Pro (Wu et al., arXiv 2401.02415)",
        tensors={
            "branch outputs of new layers": "zero (weight and bias)",
            "every other tensor": "copied with its layer",
        },
        function="kept, under every norm",
        gradient="kept: old layers see the same gradients",
        escape="zeroed matrices learn from step 1, all else from step 2",
        use="continued pre-training on a new domain without forgetting (32 → 40 layers in the paper)",
        schedule="only the new layers are trained: freeze the others in the stage after the growth",
        options={
            "every": "old layers of a group, behind which its new ones stand; 0: new layers spread as evenly as they can",
        },
    ),
)
