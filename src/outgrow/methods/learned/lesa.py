"""LESA's growth (arXiv 2502.13794), once its layers are predicted: they are tensors that stand between old neighbours.

    rows      l_1, l_1.5, l_2, ...     new layers in evenly spread gaps, one in each at most
    weights   of a new layer: predicted; of an old one: its own; both then widened as the width operator says

`learning/lesa.py` predicts the tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from outgrow.algebra.maps import LayerMap
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part
from outgrow.methods.build import build
from outgrow.methods.learned.form import Learned, Values, check_alike
from outgrow.models.architecture import growable
from outgrow.models.expressions import got
from outgrow.models.model import Model

PREDICTED = "new layers are predicted from their neighbours"


@dataclass(frozen=True)
class Lesa(Learned):
    """Layers between layers; its numbers are whole tensors of the small width, by `lesa/` and their name in the large model.

    Moments of a new layer are those of the layer before it. Raises GrowthError with fewer than three layers (there is no
    triple to learn from) and for more new layers than gaps.
    """

    small: Model
    large: Model
    width: str = "isometric"
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.small.layers == self.large.layers:
            raise GrowthError(
                "LESA predicts new layers, and there are none to predict",
                got=f"{self.small.spec.layers.count} = {self.small.layers}, as before",
                fix="name more layers, or use ligo (width alone can be learned too)",
            )
        check_alike(self.small, "lesa")
        cube = next((one for one in self.patterns if len(self.small.shape(name(one, 0))) > 2), None)
        if cube is not None:
            raise GrowthError(
                f"LESA predicts matrices, and '{cube}' has {len(self.small.shape(name(cube, 0)))} dimensions "
                "(experts, or a convolution)",
                fix="use stack, interleave or identity",
            )
        _gaps(self.small.layers, self.large.layers)

    @cached_property
    def order(self) -> tuple[tuple[int, int | None], ...]:
        """For every layer of the large model: (the old layer, None), or the two old layers that it stands between."""
        gaps = _gaps(self.small.layers, self.large.layers)
        found: list[tuple[int, int | None]] = []
        for layer in range(self.small.layers):
            found += [(layer, None), *([(layer, layer + 1)] if layer in gaps else [])]
        return tuple(found)

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Those of the parameters of a layer."""
        every = self.small.parameters.values()
        return tuple(dict.fromkeys(one.pattern for one in every if one.layer is not None))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            source: self.small.shape(name(pattern, left)) for pattern, _, left, source in self._predicted()
        }

    def growth(self, values: Values) -> Growth:
        to = {
            field: got(self.large.config, field)
            for field in growable(self.small.spec)
            if got(self.large.config, field) != got(self.small.config, field)
        }
        base = build(self.small, to, width=self.width, depth="interleave", noise=self.noise, seed=self.seed)
        parts = dict(base.parts)
        for pattern, new, _, source in self._predicted():
            large = name(pattern, new)
            parts[large] = tuple(replace(one, source=source) for one in parts.get(large, (Part(),)))
        return replace(
            base,
            layers=LayerMap(tuple(((left, 1.0),) for left, _ in self.order), self.small.layers),
            parts=parts,
            tensors=dict(values),
            inexact="; ".join(filter(None, (base.inexact, PREDICTED))),
            provenance=({"depth": "lesa"}, *(entry for entry in base.provenance if "width" in entry)),
        )

    def _predicted(self) -> Iterator[tuple[str, int, int, str]]:
        """(pattern, new layer, old layer before it, name of the tensor)."""
        for pattern in self.patterns:
            for new, (left, right) in enumerate(self.order):
                if right is not None:
                    yield pattern, new, left, f"lesa/{name(pattern, new)}"


def name(pattern: str, layer: int) -> str:
    """A layer's parameter.

    >>> name("model.layers.{L}.mlp.up_proj.weight", 3)
    'model.layers.3.mlp.up_proj.weight'
    """
    return pattern.replace("{L}", str(layer))


def _gaps(small: int, large: int) -> list[int]:
    """Layers after which a new one stands, evenly spread.

    >>> _gaps(5, 7)
    [1, 3]
    """
    new = large - small
    if small < 3:
        raise GrowthError(
            "LESA learns from triples of neighbouring layers, and this model has fewer than three layers",
            got=small,
            fix="use stack, interleave or identity",
        )
    if new > small - 1:
        raise GrowthError(
            f"LESA puts one layer between two neighbours, and {small} layers have {small - 1} gaps",
            got=f"{new} new layers",
            fix=f"choose at most {2 * small - 1} layers and grow again, or use stack or interleave (any depth)",
        )
    return [(2 * place + 1) * (small - 1) // (2 * new) for place in range(new)]
