"""A model as outgrow sees it: an architecture at the sizes of one config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

from outgrow.algebra.axes import Signature, parse
from outgrow.models.bounds import class_names
from outgrow.models.expressions import beside, got, size_of
from outgrow.models.spec import ArchitectureSpec, AxisSpec, ParameterSpec


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model: its name, the layer it is in, the name's pattern, and its signature."""

    name: str
    pattern: str
    layer: int | None
    signature: Signature
    spec: ParameterSpec
    tied: tuple[Signature, ...] = ()
    """Signatures of the parameters that share this tensor, as their own role reads it."""
    tied_names: tuple[str, ...] = ()
    """What those parameters are called."""
    tied_times: tuple[str | None, ...] = ()
    """By what the model multiplies it in those roles (`ParameterSpec.times`)."""

    @property
    def at(self) -> str | None:
        """At how many positions of a sequence it is applied, where not at all of them."""
        return self.spec.at

    @property
    def apart(self) -> tuple[str, ...]:
        """Names of its parts in published files, where they hold it in parts."""
        return self.spec.apart

    @property
    def is_trained(self) -> bool:
        """Whether it is a parameter, and no buffer that is only saved."""
        return not self.spec.buffer

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
        found = got(self.config, self.spec.layers.count)
        return len(found) if isinstance(found, list) else int(found)

    @property
    def own_config(self) -> Mapping[str, Any]:
        """Where fields stand that no architecture file names: the config, or the one inside it that counts the layers."""
        return beside(self.config, self.spec.layers.count)

    @property
    def layer_modules(self) -> Mapping[int, str]:
        """Where in the model every layer is: `{0: "model.layers.0", ...}`."""
        return {
            parameter.layer: name.removesuffix(f".{parameter.tail}")
            for name, parameter in self.parameters.items()
            if parameter.layer is not None
        }

    @property
    def class_name(self) -> str:
        """The class that the config names, or the one of the architecture file."""
        return (class_names(self.config) or [self.spec.class_])[0]

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
        return sum(
            prod(one.signature.shape(sizes)) for one in self.parameters.values() if not one.spec.buffer
        )

    def is_query(self, name: str) -> bool:
        """Of two axes contracted in attention, the one that the file names first is the query side."""
        order, other = list(self.axes), self.axes[name].with_
        return other is None or order.index(name) < order.index(other)

    def tied_axes(self) -> frozenset[str]:
        """Axes that a tied tensor reads as a head (the output of the norm before it), whichever of its roles owns it."""
        read = frozenset[str]().union(
            *(
                signature.axes("reads")
                for parameter in self.parameters.values()
                if parameter.tied
                for signature in (parameter.signature, *parameter.tied)
            )
        )
        return frozenset(name for name in read if not self.axes[name].is_table)

    def is_scaled(self, name: str) -> bool:
        """Whether gains scale what branches write to this axis, with no norm before them (LayerScale)."""
        return self.axes[name].of is None and name in self.scaled

    @cached_property
    def scaled(self) -> frozenset[str]:
        """Axes that some gain scales, inputs of norms left out."""
        gains = (one.signature for one in self.parameters.values() if not one.signature.raw)
        return frozenset[str]().union(*(gain.axes("scales") for gain in gains))

    @cached_property
    def keeps_rms(self) -> bool:
        """Whether the stream's root mean square must not change, so that c = D/d, ρ = 1, gains and eps stay as they are.

        So it is where a norm of the stream has no gain, or an eps that is in the code, or shares its eps with a norm over
        anything else, which must keep it.
        """
        streams = {name for name, one in self.axes.items() if one.is_stream}
        mine = {name: one for name, one in self.axes.items() if one.of in streams}
        eps = {one.eps for one in mine.values()}
        others = [one.eps for name, one in self.axes.items() if one.of is not None and name not in mine]
        others += [one.spec.eps for one in self.parameters.values() if one.spec.norm is not None]
        return None in eps or not mine.keys() <= self.scaled or any(other in eps for other in others)

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
        return sum(prod(self.shape(name)) for name, one in self.parameters.items() if not one.spec.buffer)
