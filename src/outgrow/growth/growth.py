"""A growth: two models, a pair of maps for every axis, and which layers come from which.

    operator(small, large) -> Growth -> plan(growth) -> one recipe per tensor

An operator chooses maps for the *free* axes. What follows from them (norm outputs, tied heads, attention scale, eps)
is worked out in `constraints`, so that no operator has to know it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from outgrow.algebra.axes import Atom, Raw, Sum
from outgrow.algebra.linear import LinearMap
from outgrow.algebra.maps import AxisMap, LayerMap, identity
from outgrow.algebra.products import direct_sum, kron
from outgrow.errors import GrowthError
from outgrow.growth.experts import ExpertGrowth, of_router
from outgrow.models.model import Model, Parameter
from outgrow.models.routing import of_experts


@dataclass(frozen=True)
class Part:
    """One term of a weight that is no single F W Gᵀ: block-diagonal copies, rows from the next layer, learned mixtures.

    A weight with parts is their sum; its moments keep following the growth's own maps, unless they are asked to follow
    the parts too. What a part does not say, the growth says.
    """

    axes: Mapping[str, AxisMap] = field(default_factory=dict)
    """Maps instead of the growth's own."""
    layers: LayerMap | None = None
    """Layers instead of the growth's own: a mixture of the old ones for this weight alone."""
    shift: int = 0
    """Read this many layers further on, the last layer at most."""
    coefficient: float = 1.0
    source: str | float | None = None
    """The pattern of the parameter that is read, if another; or a number that stands in every entry."""
    maps: tuple[LinearMap, ...] | None = None
    """One map per dimension, given outright."""
    noise: float = 0.0
    """Standard deviation of noise that readers do see, in the growth's unit of noise."""
    noise_on: Literal["all", "writes", "reads"] = "all"
    """Where that noise is: everywhere, or only in units of this role that are no first copy of an old unit."""
    lifts: bool = False
    """Whether its maps are proper pairs, so that moments follow them as weights do (experts cut in pieces)."""


@dataclass(frozen=True)
class Growth:
    """How one model becomes a larger one.

    `axes` maps each free axis, or neighbouring axes whose map is no product (`"kv_heads group"`), to its pair of maps.
    `noise` is the standard deviation of noise that readers cannot see, in units of the model's initializer range or of
    each weight's own root mean square. `parts` holds the exceptions, by parameter name or pattern.
    """

    small: Model
    large: Model
    axes: Mapping[str, AxisMap] = field(hash=False)
    layers: LayerMap = field(hash=False)
    noise: float = 0.0
    seed: int = 0
    provenance: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    noise_unit: Literal["initializer", "weight"] = "initializer"
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict, hash=False)
    gains: Mapping[str, AxisMap] | None = field(default=None, hash=False)
    """Maps of norm gains. Where an operator gives them, every map is taken as it stands and nothing is compensated."""
    inexact: str = ""
    """Why the function is not kept, where the axes' maps alone do not say."""
    experts: tuple[ExpertGrowth, ...] = field(default=(), hash=False)
    """How experts become more, for every router whose experts do."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict, hash=False, repr=False)
    """Weights that a learned operator brings itself; parts name them as their source."""

    def then(self, later: Growth) -> Growth:
        """This growth, then a later one, as one: every map is composed.

        Raises GrowthError where new units hold values of their own (fresh rows, noise): those exist only once drawn.
        """
        for growth in (self, later):
            drawn = growth.noise or growth.has_fresh_units or growth.layers.has_fresh or growth.experts
            if drawn or growth.parts or growth.gains is not None:
                raise GrowthError(
                    "growths with fresh units, noise, or parts of their own cannot be joined into one",
                    fix="grow twice instead",
                )
        for joint in (name for name in (*self.axes, *later.axes) if " " in name):
            raise GrowthError(
                f"the joint map of '{joint}' cannot be joined with another growth", fix="grow twice instead"
            )
        if self.layers.silent and later.layers.silent and self.layers.silenced != later.layers.silenced:
            raise GrowthError(
                "growths that silence layers in different ways cannot be joined", fix="grow twice instead"
            )
        axes = {
            name: axis if self._is_derived(name) else axis.then(later.axes[name])
            for name, axis in self.axes.items()
        }
        return replace(
            self,
            large=later.large,
            axes=axes,
            layers=self.layers.then(later.layers),
            provenance=(*self.provenance, *later.provenance),
        )

    @property
    def has_fresh_units(self) -> bool:
        """Whether any new unit copies nothing and is drawn at random on one side."""
        return any(self._is_fresh(name, axis) for name, axis in self.axes.items() if name in self.small.axes)

    def experts_of(self, parameter: Parameter) -> ExpertGrowth | None:
        """How the experts grow that a tensor stacks, if it does."""
        return next((one for one in self.experts if of_experts(parameter, one.router)), None)

    def router_of(self, parameter: Parameter) -> ExpertGrowth | None:
        """How the experts grow whose logits a tensor makes, if it does."""
        return next((one for one in self.experts if of_router(parameter, one.router)), None)

    def _is_fresh(self, name: str, axis: AxisMap) -> bool:
        spec = self.small.axes[name]
        # New tokens begin as a mean, and the keys of new query dimensions are zero: neither is drawn.
        drawn = not spec.is_lookup and not (spec.is_contracted and axis.fresh == "readers")
        return drawn and axis.fresh != "none" and not covered(axis.forward)

    def _is_derived(self, name: str) -> bool:
        """Whether `constraints` works this axis's map out from another's: what stands here is a place-holder."""
        spec = self.small.axes[name]
        return spec.is_normed or spec.like is not None


def no_layers(model: Model) -> LayerMap:
    """Every layer stays."""
    return LayerMap.of(range(model.layers), small=model.layers)


def no_width(model: Model) -> dict[str, AxisMap]:
    """Every axis stays."""
    return {name: identity(size) for name, size in model.sizes.items()}


def product_maps(block: tuple[Atom, ...], axes: Mapping[str, AxisMap]) -> list[AxisMap]:
    """The maps of a product of axes, outermost first; the joint map of neighbours (the longest) stands for them.

    A sum inside it is the direct sum of its terms. Inputs of norms (`raw`) are derived in `raw_norms`.

    >>> [one.large for one in product_maps(("heads", 3, "dim"), {"heads": identity(2), "3 dim": identity(15)})]
    [2, 15]
    """
    found, place = [], 0
    while place < len(block):
        words = {stop: " ".join(map(str, block[place:stop])) for stop in range(len(block), place, -1)}
        stop = next((stop for stop, word in words.items() if word in axes), place + 1)
        atom = block[place]
        if words[stop] in axes:
            found.append(axes[words[stop]])
        elif isinstance(atom, Sum):
            assert not isinstance(atom, Raw), "the input of a norm has no map of its own"
            found.append(joined_maps(atom.blocks, axes))
        else:
            found.append(identity(int(atom)))
        place = stop
    return found


def joined_maps(blocks: tuple[tuple[Atom, ...], ...], axes: Mapping[str, AxisMap]) -> AxisMap:
    """The maps of a sum of products as one pair.

    >>> joined_maps((("heads", 3), ("heads",)), {"heads": identity(2)}).large
    8
    """
    parts = [product_maps(block, axes) for block in blocks]
    return AxisMap(
        direct_sum([kron([axis.forward for axis in part]) for part in parts]),
        direct_sum([kron([axis.backward for axis in part]) for part in parts]),
    )


def covered(map_: LinearMap) -> bool:
    """Whether every output unit reads something."""
    return bool(map_.covered().all())
