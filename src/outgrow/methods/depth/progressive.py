"""New layers that copy one end of the stack or nothing: MSLT (arXiv 2011.13635), zero- and one-layer starts (arXiv 2511.04981).

mslt     the top L' - L layers again, on top          0 1 2 → 0 1 2 1 2
repeat   layers of one end again, at that end         last: 0 1 2 2 2 · top: 0 1 2 1 2 · first: 0 0 0 1 2 · bottom: 0 1 0 1 2
random   new layers drawn afresh, N(0, initializer range²), norms (1, 0), biases 0; also from a model without layers
"""

from __future__ import annotations

from typing import Literal

from outgrow.growth.growth import Growth
from outgrow.methods.depth.layers import cannot, copied, repeats, spread
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def mslt(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """Copies of the top layers on top, at most all of them.

    Keeps: neither function nor gradient law. Raises GrowthError beyond twice the depth.
    """
    return _copy_end("mslt", small, large, "top")


def repeat(
    small: Model, large: Model, *, end: Literal["last", "first", "top", "bottom"] = "last", seed: int = 0
) -> Growth:
    """The last or first layer again and again, or the top or bottom layers once more, at their own end.

    Keeps: neither function nor gradient law. Raises GrowthError for `top` and `bottom` beyond twice the depth.
    """
    if end in ("top", "bottom"):
        return _copy_end("repeat", small, large, end)
    old, new = list(range(small.layers)), large.layers - small.layers
    index = old + [small.layers - 1] * new if end == "last" else [0] * new + old
    return copied(small, large, index)


def random(
    small: Model,
    large: Model,
    *,
    order: Literal["append", "alternate"] = "append",
    outputs: Literal["random", "zero"] = "random",
    seed: int = 0,
) -> Growth:
    """Fresh layers after the old ones or spread among them; from a model with no layers, all are fresh.

    Keeps: with `outputs=zero` function and gradient law, else neither. The paper prefers random outputs: zero ones
    block what the new layers could learn.
    """
    old = (
        spread(small.layers, large.layers)
        if order == "alternate" and small.layers
        else list(range(small.layers))
    )
    again = set(repeats(old))
    index: list[int | None] = [None if place in again else source for place, source in enumerate(old)]
    index += [None] * (large.layers - len(index))
    fresh = [layer for layer, source in enumerate(index) if source is None]
    if outputs == "zero" and not small.layers and large.layers and small.spec.layers.norm == "post":
        why = "no layer stands before the silent ones to take its norm from"
        raise cannot("random", small, large, why, "use outputs=random")
    return copied(small, large, index, silent=fresh if outputs == "zero" else (), seed=seed)


def _copy_end(operator: str, small: Model, large: Model, end: str) -> Growth:
    new = large.layers - small.layers
    if new > small.layers:
        instead = f"choose at most {2 * small.layers} layers, or use stack, interleave or repeat:end=last"
        raise cannot(operator, small, large, f"there are no {new} layers to copy", instead)
    old = list(range(small.layers))
    return copied(small, large, old + old[small.layers - new :] if end == "top" else old[:new] + old)


_COPIED = {"every tensor": "copied with its layer; embeddings and head stay"}
_REPEATED = "not kept: layers are applied more than once"

OPERATORS = (
    Operator(
        name="mslt",
        kind="depth",
        grow=mslt,
        title="The top layers again, on top.",
        paper="MSLT (Yang et al., arXiv 2011.13635)",
        tensors=_COPIED,
        function=_REPEATED,
        gradient="not kept",
        escape="only the copies are trained at first",
        use="cheap stages: gradients stop at the first new layer",
        schedule="each stage trains only the new top layers (freeze the others); at the end all are trained together",
    ),
    Operator(
        name="repeat",
        kind="depth",
        grow=repeat,
        title="One end of the stack again: the last or first layer many times, or the top or bottom layers once.",
        paper="copy-last of zero- and one-layer starts (arXiv 2511.04981)",
        tensors=_COPIED,
        function=_REPEATED,
        gradient="not kept",
        escape="copies stand at other depths and part at once",
        use="one-layer starts; with more layers the paper finds copying all of them better",
        schedule="constant part of WSD, the same learning rate before and after",
        options={
            "end": "what is repeated at its own end: one layer (last, first), or as many as are new (top, bottom)",
        },
    ),
    Operator(
        name="random",
        kind="depth",
        grow=random,
        title="New layers are drawn afresh; the source may have no layers at all.",
        paper="zero- and one-layer starts (arXiv 2511.04981)",
        tensors={
            "new matrices": "N(0, initializer range²); outputs=zero: the last of each branch zero",
            "new norms and biases": "(1, 0) and zero",
            "old layers, embeddings, head": "stay",
        },
        function="not kept; outputs=zero: kept (not from zero layers in post-norm models)",
        gradient="not kept; outputs=zero: kept for old layers",
        escape="nothing is copied, so nothing is locked",
        use="expansion from zero or one layer, once, late in the constant part of a WSD schedule",
        schedule="at about 0.8 of all tokens, the same learning rate before and after",
        needs_layers=False,
        options={
            "order": "new layers on top (append), or among the old ones (alternate)",
            "outputs": "last matrix of each branch: drawn (random), or zero, so that the function is kept",
        },
    ),
)
