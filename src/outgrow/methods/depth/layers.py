"""What depth operators share: a growth from a list of layers, and the places where new layers go.

index[j]   the old layer that new layer j copies; None is a fresh layer, drawn at random
"""

from __future__ import annotations

from collections.abc import Sequence

from outgrow.algebra.maps import LayerMap, Silencing
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, no_width
from outgrow.models.model import Model


def copied(
    small: Model,
    large: Model,
    index: Sequence[int | None],
    *,
    silent: Sequence[int] = (),
    silenced: Silencing = "outputs",
    seed: int = 0,
) -> Growth:
    """The growth whose new layer j copies old layer `index[j]`."""
    rows = tuple(() if source is None else ((source, 1.0),) for source in index)
    assert len(rows) == large.layers, "an operator names every new layer"
    layers = LayerMap(rows, small.layers, frozenset(silent), silenced)
    return Growth(small, large, no_width(small), layers, seed=seed)


def spread(small: int, large: int) -> list[int]:
    """New layer j copies layer ⌊j·L/L'⌋: every layer beside its copies, as evenly as the sizes allow.

    >>> spread(2, 5)
    [0, 0, 0, 1, 1]
    """
    return [layer * small // large for layer in range(large)]


def repeats(index: Sequence[int | None]) -> list[int]:
    """New layers whose old layer stands in an earlier one already.

    >>> repeats([0, 1, 0, 2, 1])
    [2, 4]
    """
    first = {source: layer for layer, source in reversed([*enumerate(index)])}
    return [layer for layer, source in enumerate(index) if first[source] < layer]


def cannot(operator: str, small: Model, large: Model, why: str, instead: str) -> GrowthError:
    """The refusal of a depth, in the user's words; `instead` says which depths or operators can."""
    return GrowthError(
        f"depth operator '{operator}' cannot grow the layers ({small.spec.layers.count}) of {small.spec.model_type}"
        f" from {small.layers} to {large.layers}: {why}",
        fix=instead,
    )
