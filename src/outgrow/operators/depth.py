"""Growing in depth: which layer a new layer copies.

    stack        0 1 2 → 0 1 2 0 1 2       (StackBERT, ICML 2019; G_stack, arXiv 2405.15319): trains best, not exact
    interleave   0 1 2 → 0 0 1 1 2 2       (interposition, arXiv 2510.08008): not exact
    identity     0 1 2 → 0 · 1 · 2 ·       copies whose branches output zero (Staged Training, arXiv 2203.06211): exact

The identity of a pre-norm block zeroes the last matrix of each branch and copies the rest, so that every new weight
learns from the second step on; a post-norm block also moves the last norm (notes/maths.md 4.9).
"""

from __future__ import annotations

from collections.abc import Sequence

from outgrow.architectures import Model
from outgrow.growth import Growth, no_width
from outgrow.maps import LayerMap


def stack(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """The whole sequence of layers again and again, cut at the new depth.

    Keeps: neither function nor gradient law; moments are copied with their layers.
    """
    return _grow("stack", small, large, [layer % small.layers for layer in range(large.layers)])


def interleave(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """Every layer next to its copies, as evenly as the sizes allow.

    Keeps: neither function nor gradient law; moments are copied with their layers.
    """
    return _grow("interleave", small, large, _spread(small.layers, large.layers))


def identity(small: Model, large: Model, *, seed: int = 0) -> Growth:
    """After every layer a silent copy of it, as evenly as the sizes allow: the function and the gradient law are kept."""
    index = _spread(small.layers, large.layers)
    silent = [layer for layer in range(1, large.layers) if index[layer] == index[layer - 1]]
    return _grow("identity", small, large, index, silent)


DEPTH = {"stack": stack, "interleave": interleave, "identity": identity}


def _spread(small: int, large: int) -> list[int]:
    """New layer j copies layer ⌊j·L/L'⌋.

    >>> _spread(2, 5)
    [0, 0, 0, 1, 1]
    """
    return [layer * small // large for layer in range(large)]


def _grow(
    operator: str, small: Model, large: Model, index: Sequence[int], silent: Sequence[int] = ()
) -> Growth:
    layers = LayerMap.of(index, small=small.layers, silent=silent)
    return Growth(small, large, no_width(small), layers, provenance=({"depth": operator},))
