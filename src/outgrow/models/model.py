"""A model as outgrow sees it: an architecture at the sizes of one config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from outgrow.algebra.axes import Signature, parse
from outgrow.models.expressions import size_of
from outgrow.models.spec import ArchitectureSpec, AxisSpec


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model: its name, the layer it is in, the name's pattern, and its signature."""

    name: str
    pattern: str
    layer: int | None
    signature: Signature
    tied: tuple[Signature, ...] = ()
    """Signatures of the parameters that share this tensor, as their own role reads it."""
    at: str | None = None
    """At how many positions of a sequence it is applied, where not at all of them."""
    apart: tuple[str, ...] = ()
    """Names of its parts in published files, where they hold it in parts (`ParameterSpec.apart`)."""

    def in_layer(self, layer: int) -> str:
        """The same parameter's name in another layer."""
        return self.pattern.replace("{L}", str(layer))

    @property
    def tail(self) -> str:
        """The name inside its layer, as `self_attn.o_proj.weight`."""
        return self.pattern.split("{L}.", 1)[-1]


@dataclass(frozen=True)
class Model:
    """An architecture at the sizes of one config."""

    spec: ArchitectureSpec
    config: Mapping[str, Any] = field(hash=False)
    sizes: Mapping[str, int] = field(hash=False)
    parameters: Mapping[str, Parameter] = field(hash=False)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(self.config[self.spec.layers.count])

    @property
    def layer_modules(self) -> Mapping[int, str]:
        """Where in the model every layer is: `{0: "model.layers.0", ...}`."""
        return {
            parameter.layer: name.removesuffix(f".{parameter.tail}")
            for name, parameter in self.parameters.items()
            if parameter.layer is not None
        }

    @property
    def axes(self) -> Mapping[str, AxisSpec]:
        """What each axis passes through."""
        return self.spec.axes

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self.parameters[name].signature.shape(self.sizes)

    @property
    def active_sizes(self) -> Mapping[str, int]:
        """Sizes as one token meets them: of an axis of experts, those that work for it."""
        return {
            name: size
            if self.axes[name].active is None
            else size_of(str(self.axes[name].active), self.config)
            for name, size in self.sizes.items()
        }

    @property
    def num_active(self) -> int:
        """Number of weights that work for one token, tied ones once; embedding tables count in full."""
        sizes = self.active_sizes
        return sum(prod(one.signature.shape(sizes)) for one in self.parameters.values())

    def is_query(self, name: str) -> bool:
        """Of two axes contracted in attention, the one that the file names first is the query side."""
        order, other = list(self.axes), self.axes[name].with_
        return other is None or order.index(name) < order.index(other)

    def tied_axes(self) -> frozenset[str]:
        """Axes that a tied tensor reads in its second role (the output of the norm before a tied head)."""
        return frozenset[str]().union(
            *(
                signature.axes("reads")
                for parameter in self.parameters.values()
                for signature in parameter.tied
            )
        )

    def is_scaled(self, name: str) -> bool:
        """Whether gains scale what branches write to this axis, with no norm before them (LayerScale)."""
        return self.axes[name].of is None and any(
            name in parameter.signature.axes("scales") for parameter in self.parameters.values()
        )

    @property
    def sequence(self) -> int | None:
        """Length of every sequence, where the config fixes it."""
        return None if self.spec.sequence is None else self.positions(self.spec.sequence)

    def positions(self, text: str) -> int:
        """A number of positions, said as one dimension of a signature: `"(1 + grid grid)"`."""
        return parse(text).dims[0].size(self.sizes)

    @property
    def num_parameters(self) -> int:
        """Number of weights, tied ones once."""
        total = 0
        for name in self.parameters:
            count = 1
            for size in self.shape(name):
                count *= size
            total += count
        return total
