"""Growing in the middle: MIDAS (arXiv 2409.19044) and LIDAS (arXiv 2512.08819).

    MIDAS   L/b blocks of b layers; block ⌈n/2⌉ of n is repeated where it stands, one block per stage
    LIDAS   the b layers in the exact middle, from ⌊(L-b)/2⌋, are repeated where they stand

Both grow gradually; here the stages that lead to the new depth are done one after the other.

    0 1 2 3 → MIDAS, b = 2:  0 1 0 1 2 3      LIDAS, b = 2:  0 1 2 1 2 3
"""

from __future__ import annotations

from math import gcd

from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.methods.depth.layers import cannot, copied
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def midas(small: Model, large: Model, *, block: int = 0, seed: int = 0) -> Growth:
    """The middle one of the stack's blocks is repeated, stage by stage; `block` layers each (0: the largest that fits).

    Keeps: neither function nor gradient law. Raises GrowthError where blocks do not fit both depths.
    """
    _check("midas", block, small.layers)
    block = block or gcd(small.layers, large.layers)
    if small.layers % block or large.layers % block:
        best = gcd(small.layers, large.layers)
        why = f"neither depth may end inside a block of {block}"
        raise cannot("midas", small, large, why, f"use block={best}, or lidas (any depth)")
    index = list(range(small.layers))
    while len(index) < large.layers:
        end = -(-len(index) // block // 2) * block  # after block ⌈n/2⌉
        index[end:end] = index[end - block : end]
    return copied(small, large, index)


def lidas(small: Model, large: Model, *, block: int = 0, seed: int = 0) -> Growth:
    """The `block` layers in the exact middle are repeated, stage by stage (0: the most that fit in equal stages).

    Keeps: neither function nor gradient law. Raises GrowthError where the new layers are no whole number of blocks.
    """
    _check("lidas", block, small.layers)
    new = large.layers - small.layers
    best = next((size for size in range(min(small.layers, new), 0, -1) if new % size == 0), 1)
    block = block or best
    if new % block:
        why = f"{new} new layers are no whole number of blocks of {block}"
        raise cannot("lidas", small, large, why, f"use block={best}")
    index = list(range(small.layers))
    while len(index) < large.layers:
        start = (len(index) - block) // 2
        index[start + block : start + block] = index[start : start + block]
    return copied(small, large, index)


def _check(operator: str, block: int, layers: int) -> None:
    if not 0 <= block <= layers:
        raise GrowthError(
            f"block of depth operator '{operator}'",
            got=block,
            expected=f"1 to {layers} layers, or 0 to choose",
        )


_COPIED = {"every tensor": "copied with its layer; embeddings and head stay"}

OPERATORS = (
    Operator(
        name="midas",
        kind="depth",
        grow=midas,
        title="The middle block of the stack is repeated where it stands, stage by stage.",
        paper="MIDAS (Saunshi et al., arXiv 2409.19044)",
        tensors=_COPIED,
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="gradual growth in several stages; the grown models reason better at equal perplexity (the paper)",
        schedule="stage i of k takes a share of the tokens that grows like i^α; learning rate as from scratch",
        options={
            "block": "layers of a block; 0: the most that fit both depths",
        },
    ),
    Operator(
        name="lidas",
        kind="depth",
        grow=lidas,
        title="The layers in the exact middle are repeated where they stand.",
        paper="LIDAS (arXiv 2512.08819)",
        tensors=_COPIED,
        function="not kept: layers are applied more than once",
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="as midas, where the stack is no whole number of blocks",
        schedule="as midas",
        options={
            "block": "layers in the middle that one stage repeats; 0: the most that fit in equal stages",
        },
    ),
)
