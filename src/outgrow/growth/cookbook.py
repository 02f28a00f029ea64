"""What every grown tensor is made of: one recipe per parameter and slot.

For a tensor with signature dims and source layers (l, w), summed over its parts:

    recipe = Σ_l w · (⊗ over dims, slot.map(axis, role)) · tensor_l  +  fresh entries  +  noise

A part is the growth's own maps and layers, or what the operator puts in their place for this one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from outgrow.algebra.axes import Atom, Dim, Product, Raw, Role, Sum
from outgrow.algebra.fills import Below, CommonRows, Fill, Fresh, Level, Mask, Redrawn
from outgrow.algebra.invisible import Invisible
from outgrow.algebra.linear import EMPTY, MEAN, Identity, LinearMap, Select
from outgrow.algebra.maps import AxisMap, LayerMap
from outgrow.algebra.products import direct_sum, kron
from outgrow.algebra.recipe import Recipe, Term
from outgrow.algebra.slots import SLOTS, WEIGHT, Moments, Slot
from outgrow.errors import GrowthError
from outgrow.growth.compensation import Compensation, times_ratio
from outgrow.growth.growth import Growth, Part, product_maps
from outgrow.growth.raw_norms import RawNorm, part_of_raw
from outgrow.models.model import Parameter
from outgrow.models.routing import corrects

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class BySlot(Mapping[str, Mapping[str, Recipe]]):
    """Every slot's recipes, worked out when a slot is first asked for; slots that obey the same law share them."""

    cookbook: Cookbook
    made: dict[object, dict[str, Recipe]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Mapping[str, Recipe]:
        slot = SLOTS[name]
        if slot.law not in self.made:
            self.made[slot.law] = self.cookbook.recipes(slot)
        return self.made[slot.law]

    def __iter__(self) -> Iterator[str]:
        return iter(SLOTS)

    def __len__(self) -> int:
        return len(SLOTS)


@dataclass(frozen=True)
class Cookbook:
    """The recipes of one growth, worked out tensor by tensor."""

    growth: Growth
    compensation: Compensation
    moments: Moments
    cache: dict[object, Any] = field(default_factory=dict)
    """What tensors of the same dimensions share: maps and masks are made once, not once per layer."""

    def recipes(self, slot: Slot) -> dict[str, Recipe]:
        least = 1 if slot.mean_over is None else 2  # a vector's second moment is not factored
        return {
            name: self.recipe(parameter, slot)
            for name, parameter in self.growth.large.parameters.items()
            if len(parameter.signature.dims) >= least and (slot is WEIGHT or parameter.is_trained)
        }

    def recipe(self, parameter: Parameter, slot: Slot) -> Recipe:
        times = times_ratio(self.growth, parameter.spec.times)
        whole = self.unscaled(parameter, slot, times if slot is WEIGHT else times**-slot.power)
        if slot.partner is None or not whole.terms:
            return whole
        return replace(whole, follows=(slot.partner, self.unscaled(parameter, SLOTS[slot.partner])))

    def unscaled(self, parameter: Parameter, slot: Slot, times: float = 1.0) -> Recipe:
        """A recipe as the maps alone have it, times a number: a factor of a second moment still follows its partner."""
        shape = slot.shape(self.growth.large.shape(parameter.name))
        parts = self.parts(parameter, slot)
        terms: list[Term] = []
        for part in parts:
            sources = self.sources(parameter, slot, part)
            maps = part.maps or self.maps(parameter, slot, part)
            share = times * (part.coefficient if slot is WEIGHT else self.noise_of_experts(parameter, slot))
            terms += [Term(source, maps, share * weight**slot.power) for source, weight in sources]
            if slot is WEIGHT and parameter.spec.plus:
                stored = sum(weight for source, weight in sources if isinstance(source, str))
                terms += [Term(parameter.spec.plus, maps, share * stored)] if stored else []
            if slot is WEIGHT:
                terms += [
                    Term(source, mean, share * weight)
                    for mean in self.new_tokens(parameter)
                    for source, weight in sources
                ]
        if slot is WEIGHT and parameter.spec.plus:  # what is used is w + plus: W' = M (W + plus) - plus
            terms.append(Term(-parameter.spec.plus, tuple(map(Identity, shape))))
        whole = self.maps(parameter, slot, _WHOLE)
        fills = self.fills(parameter, slot, self.sources(parameter, slot, _WHOLE), whole)
        if slot is WEIGHT:
            for place, part in enumerate(parts):
                if part.noise and terms:  # a silent layer stays silent
                    std, of = self.noise(part.noise, terms[0].source)
                    masks = () if part.noise_on == "all" else self.later_copies(parameter, part)
                    fills += (Fresh(std, self.growth.seed, f"{parameter.name}/part/{place}", masks, of),)
        return Recipe(parameter.name, shape, tuple(terms), fills)

    def parts(self, parameter: Parameter, slot: Slot) -> tuple[Part, ...]:
        """What a tensor is the sum of: weights, and moments that are asked to, follow the operator's own parts."""
        own = self.growth.parts.get(parameter.name) or self.growth.parts.get(parameter.pattern)
        follows = slot is WEIGHT or (self.moments == "parts" and slot.partner is None)
        lifts = own is not None and all(part.lifts for part in own)
        return own if own and (follows or lifts) else (_WHOLE,)

    def noise_of_experts(self, parameter: Parameter, slot: Slot) -> float:
        """With cautious moments, by how much the second moments of experts are larger than the law of a mean gradient.

        Of a factored moment, the rows alone: its columns follow their mean.
        """
        grown = self.growth.experts_of(parameter)
        if grown is None or self.moments != "cautious" or slot.power != 2 or slot.mean_over == -2:
            return 1.0
        return grown.noise_factor

    # ---- which layers -------------------------------------------------------------------------------------------

    def sources(self, parameter: Parameter, slot: Slot, part: Part) -> tuple[tuple[str | float, float], ...]:
        """(source tensor or constant, weight) of a new tensor; () is zero."""
        if slot is not WEIGHT and (self.moments == "reset" or self.begins_anew(parameter)):
            return ()
        if isinstance(part.source, float):
            return ((part.source, 1.0),) if slot is WEIGHT else ()
        pattern = part.source or parameter.pattern
        if parameter.layer is None:
            return ((pattern, 1.0),)
        layer, layers = parameter.layer, part.layers or self.growth.layers
        if self.growth.small.spec.layers.norm == "post":
            moved = self.moved_norm(parameter)
            if moved is not None:
                return moved if slot is WEIGHT or isinstance(moved[0][0], str) else ()
        if layer in layers.silent and (slot is not WEIGHT or self.is_silenced(parameter, layers)):
            return ()
        if slot is not WEIGHT and self.moments == "keep_zero" and layer not in layers.originals().values():
            return ()
        if not layers.rows[layer] and slot is WEIGHT and len(parameter.signature.dims) < 2:
            return ((1.0 if parameter.signature.is_gain else 0.0, 1.0),)
        last = self.growth.small.layers - 1
        found = tuple(
            (pattern.replace("{L}", str(min(source + part.shift, last))), weight)
            for source, weight in layers.rows[layer]
        )
        lacking = [
            name
            for name, _ in found
            if name not in self.growth.small.parameters and name not in self.growth.tensors
        ]
        if not lacking:
            return found
        if len(parameter.signature.dims) > 1:
            raise GrowthError(
                f"{parameter.name} would copy {lacking[0]}, which layers of that kind do not have",
                fix="use --depth identity, which keeps the kinds of layers",
            )
        return ((1.0 if parameter.signature.is_gain else 0.0, 1.0),) if slot is WEIGHT else ()

    def begins_anew(self, parameter: Parameter) -> bool:
        """Whether a router's rows are all drawn anew, so that nothing of its moments is about them."""
        grown = self.growth.router_of(parameter)
        return grown is not None and grown.fresh_rows

    def is_silenced(self, parameter: Parameter, layers: LayerMap) -> bool:
        """Whether this weight is zero in a silent layer: a branch's last matrix and bias, or the norms and all biases."""
        outputs = self.growth.small.spec.layers.branch_outputs
        is_output = parameter.tail in outputs or parameter.tail.rsplit(".", 1)[0] in outputs
        dim = parameter.signature.dims[0]
        reads = parameter.signature.axes("reads")  # a bias of experts has a row for each, and reads nothing
        if layers.silenced == "outputs" or (layers.silenced == "pairs" and not reads):
            return is_output
        axes = self.growth.small.axes
        of_stream = any(axes[axes[name].of or name].is_stream for name in dim.axes)
        return layers.silenced == "norms" and not reads and (dim.role != "scales" or of_stream)

    def moved_norm(self, parameter: Parameter) -> tuple[tuple[str | float, float], ...] | None:
        """Post-norm: the layer before silent ones passes its last norm on to the last of them (docs/explanation/maths.md)."""
        layers, spec = self.growth.layers, self.growth.small.spec.layers
        module, kind = parameter.tail.rsplit(".", 1)
        layer = parameter.layer
        assert layer is not None
        if module not in (spec.first_norm, spec.last_norm):
            return None
        neutral: tuple[tuple[str | float, float], ...] = ((1.0 if kind == "weight" else 0.0, 1.0),)
        begins_chain = layer not in layers.silent and layer + 1 in layers.silent
        if layer not in layers.silent and not (begins_chain and module == spec.last_norm):
            return None
        ends_chain = layer in layers.silent and layer + 1 not in layers.silent
        if not (ends_chain and module == spec.last_norm):
            return neutral
        first = layer
        while first in layers.silent:
            first -= 1
        return tuple((parameter.in_layer(source), weight) for source, weight in layers.rows[first])

    def step_source(self, recipe: Recipe) -> str | None:
        return next((term.source for term in recipe.terms if isinstance(term.source, str)), None)

    # ---- which maps ---------------------------------------------------------------------------------------------

    def maps(self, parameter: Parameter, slot: Slot, part: Part) -> tuple[LinearMap, ...]:
        """The map of every dimension that this slot has of a parameter."""
        dims = parameter.signature.dims
        return tuple(
            Identity(1) if place is None else self.map(dims[place], slot, part)
            for place in slot.dims(len(dims))
        )

    def map(self, dim: Dim, slot: Slot, part: Part) -> LinearMap:
        """The map of one dimension, made once per (dimension, law of the slot, axes of the part)."""

        def make() -> LinearMap:
            blocks = [
                kron([slot.map(axis, self.role(dim)) for axis in self.atoms(block, dim, part)])
                for block in dim.blocks
            ]
            made = direct_sum(blocks)
            if slot is not WEIGHT and self.moments in ("keep_zero", "copy"):
                made = _raw_copies(made, first_only=self.moments == "keep_zero")
            return made

        own = tuple((name, axis) for name, axis in part.axes.items() if dim.axes & set(name.split()))
        return self.once(("map", dim, slot.law[:4], own), make)

    def role(self, dim: Dim) -> Role:
        """What a dimension does. That of stacked experts writes, on whichever side of the arrow it is stored."""
        routed = {one.router.experts for one in self.growth.experts}
        return "writes" if dim.axes & routed else dim.role

    def once(self, key: object, make: Callable[[], _Made]) -> _Made:
        """What `make` makes the first time."""
        if key not in self.cache:
            self.cache[key] = make()
        made: _Made = self.cache[key]
        return made

    def atoms(self, block: Product, dim: Dim, part: Part) -> list[AxisMap]:
        """The axes of a product; a joint map stands for its neighbours, and inputs of norms are derived."""
        found: list[AxisMap] = []
        run: list[Atom] = []
        for atom in (*block, None):
            if isinstance(atom, Raw) or atom is None:
                found += product_maps(tuple(run), self.axes(dim, part)) if run else []
                run = []
            if isinstance(atom, Raw):
                norm = self.raw(atom, part)
                found.append(norm.gain if dim.role == "scales" else norm.input)
            elif atom is not None:
                run.append(atom)
        return found

    def axes(self, dim: Dim, part: Part) -> Mapping[str, AxisMap]:
        """The maps that a dimension uses: those of gains, or an operator's own over the growth's."""
        if dim.role == "scales":
            return self.compensation.gains
        return {**self.compensation.axes, **part.axes} if part.axes else self.compensation.axes

    def raw(self, raw: Raw, part: Part) -> RawNorm:
        """What the growth asks of a norm's input and gain."""
        axes = {**self.compensation.axes, **part.axes}
        return self.once(
            ("raw", raw, tuple(part.axes.items())),
            lambda: part_of_raw(self.growth.small, self.compensation.axes, axes, raw),
        )

    def new_tokens(self, parameter: Parameter) -> list[tuple[LinearMap, ...]]:
        """New rows of a vocabulary begin as the mean of the old ones."""
        axes = self.growth.small.axes
        found = []
        for place, dim in enumerate(parameter.signature.dims):
            lookup = next((name for name in dim.axes if axes[name].is_lookup), None)
            if lookup is not None and self.compensation.axes[lookup].grows:
                small, large = self.growth.small.sizes[lookup], self.growth.large.sizes[lookup]
                mean = self.once(("mean", lookup), partial(_mean_of_new, small, large))
                found.append(
                    tuple(
                        mean if other == place else self.map(one, WEIGHT, _WHOLE)
                        for other, one in enumerate(parameter.signature.dims)
                    )
                )
        return found

    # ---- what is filled in --------------------------------------------------------------------------------------

    def fills(
        self,
        parameter: Parameter,
        slot: Slot,
        sources: tuple[tuple[str | float, float], ...],
        maps: tuple[LinearMap, ...],
    ) -> tuple[Fill, ...]:
        name = parameter.name
        if not sources and slot is WEIGHT and self.is_fresh_layer(parameter):
            return (Fresh(self.initializer_range, self.growth.seed, name),)
        if not sources or isinstance(sources[0][0], float):
            return ()
        expert_fills = self.expert_fills(parameter, slot, str(sources[0][0]))
        if expert_fills is not None:
            return expert_fills
        if slot.power == 2:
            masks = tuple(self.once(("level", map_), partial(_uncovered, map_)) for map_ in maps)
            return (Level(str(sources[0][0]), masks),) if any(mask.has_fresh for mask in masks) else ()
        if slot is not WEIGHT or len(parameter.signature.dims) < 2:
            return ()
        std = self.initializer_range
        masks = tuple(self.once(("mask", dim), partial(self.mask, dim)) for dim in parameter.signature.dims)
        fills: list[Fill] = []
        if any(mask.has_fresh for mask in masks):
            fills.append(Fresh(std, self.growth.seed, name, masks))
        if self.growth.noise:
            for place, dim in enumerate(parameter.signature.dims):
                forward = self.once(("forward", dim), partial(self.forward, dim))
                backward = self.map(dim, WEIGHT, _WHOLE)
                copied = self.once(("copied", dim), partial(_copies_twice, forward))
                if self.role(dim) == "reads" and copied and not self.is_lookup(dim):
                    std, of = self.noise(self.growth.noise, sources[0][0])
                    address = (self.growth.seed, f"{name}/noise/{place}")
                    fills.append(
                        Invisible(std, *address, place, forward.as_gather(), backward.as_gather(), of)
                    )
        return tuple(fills)

    def expert_fills(self, parameter: Parameter, slot: Slot, source: str) -> tuple[Fill, ...] | None:
        """Random rows of a router, and units inside experts that are drawn anew; None where a tensor has neither."""
        seed, name = self.growth.seed, parameter.name
        router, experts = self.growth.router_of(parameter), self.growth.experts_of(parameter)
        if router is not None and slot is WEIGHT and len(parameter.signature.dims) > 1:
            assert router.family is not None
            if router.fresh_rows:
                return (CommonRows(self.initializer_range, seed, f"{name}/rows", router.family),)
            if router.noise:
                return (CommonRows(router.noise, seed, f"{name}/rows", router.family, source),)
        if (
            router is not None
            and slot is WEIGHT
            and corrects(parameter, router.router)
            and router.way == "hidden"
        ):
            return (Below(torch.arange(router.large.experts) >= router.small.experts, source),)
        if experts is None or experts.redrawn is None or slot.mean_over is not None:
            return None
        dims = parameter.signature.dims
        place = next((at for at, dim in enumerate(dims) if experts.inner in dim.axes), None)
        if place is None or (slot is not WEIGHT and slot.power == 1):
            return None
        cells = torch.cat([_inside(experts.redrawn, experts.inner, block) for block in dims[place].blocks], 1)
        level = None if slot is WEIGHT else self.noise_of_experts(parameter, slot) / experts.copies**2
        return (Redrawn(cells, place, source, seed, f"{name}/redrawn", level),)

    def forward(self, dim: Dim) -> LinearMap:
        """How activations along a dimension grow, whatever it does with them."""
        return direct_sum(
            [kron([axis.forward for axis in self.atoms(block, dim, _WHOLE)]) for block in dim.blocks]
        )

    @property
    def initializer_range(self) -> float:
        return float(self.growth.small.own_config.get("initializer_range") or 0.02)

    def noise(self, amount: float, source: str | float) -> tuple[float, str | None]:
        """Standard deviation of noise, and the tensor in whose root mean square it is counted, if in any."""
        if self.growth.noise_unit == "weight":
            return amount, str(source)
        return amount * self.initializer_range, None

    def is_fresh_layer(self, parameter: Parameter) -> bool:
        """Whether a weight stands in a layer that is made of no old one and speaks."""
        layer, layers = parameter.layer, self.growth.layers
        silent = layer in layers.silent and self.is_silenced(parameter, layers)
        return layer is not None and not layers.rows[layer] and not silent

    def is_positions(self, dim: Dim) -> bool:
        """Whether its rows have a place each: new ones are drawn."""
        return any(self.growth.small.axes[name].is_places for name in dim.axes)

    def is_lookup(self, dim: Dim) -> bool:
        return any(self.growth.small.axes[name].is_table for name in dim.axes)

    def later_copies(self, parameter: Parameter, part: Part) -> tuple[Mask, ...]:
        """Units that are no first copy of an old one, in the dimensions where a part's noise is asked for."""

        def make(dim: Dim) -> Mask:
            first = _raw_copies(self.map(dim, WEIGHT, _WHOLE), first_only=True).covered()
            later = ~first if dim.role == part.noise_on else torch.zeros_like(first)
            return Mask(later, torch.zeros_like(later))

        dims = parameter.signature.dims
        return tuple(self.once(("later", dim, part.noise_on), partial(make, dim)) for dim in dims)

    def mask(self, dim: Dim) -> Mask:
        """New units of a dimension: those that may hold fresh values, and those that must stay zero."""
        return Mask(*self.new_units(dim.blocks, dim))

    def new_units(self, blocks: tuple[Product, ...], dim: Dim) -> tuple[Tensor, Tensor]:
        """The same for a sum of products, as two tensors."""
        fresh, barred = [], []
        for block in blocks:
            block_fresh, block_barred = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
            for mine, barring in self.new_of_atoms(block, dim):
                block_fresh, block_barred = _outer(block_fresh, mine), _outer(block_barred, barring)
            fresh.append(block_fresh)
            barred.append(block_barred)
        return torch.cat(fresh), torch.cat(barred)

    def new_of_atoms(self, block: Product, dim: Dim) -> Iterator[tuple[Tensor, Tensor]]:
        if any(isinstance(atom, Sum) and not isinstance(atom, Raw) for atom in block):
            for atom in block:  # one by one: no joint map reaches into a sum
                if isinstance(atom, Sum) and not isinstance(atom, Raw):
                    yield self.new_units(atom.blocks, dim)
                else:
                    yield from self.new_of_atoms((atom,), dim)
            return
        raw = any(isinstance(atom, Raw) for atom in block)
        for axis in self.atoms(block, dim, _WHOLE):
            map_ = axis.forward if self.role(dim) == "writes" else axis.backward
            empty, none = ~map_.covered(), torch.zeros(map_.outputs, dtype=torch.bool)
            if self.is_lookup(dim) and not self.is_positions(dim):
                yield none, none
            elif not raw and dim.role in _FRESH_SIDES[axis.fresh]:
                yield empty, none
            else:
                yield none, empty


def _inside(cells: torch.Tensor, inner: str, block: Product) -> torch.Tensor:
    """Flags (expert, inner unit) as flags of (expert, unit of a product with numbers): `(mlp 2)` has each twice."""
    at, sizes = block.index(inner), [atom if isinstance(atom, int) else 1 for atom in block]
    return cells.repeat(1, prod(sizes[:at])).repeat_interleave(prod(sizes[at + 1 :]), 1)


_WHOLE = Part()
"""A weight that is one term under the growth's own maps."""
_FRESH_SIDES = {"writers": ("writes",), "readers": ("reads",), "both": ("writes", "reads"), "none": ()}


def _copies_twice(map_: LinearMap) -> bool:
    """Whether some unit has several copies, among which noise can cancel."""
    gather = map_.gather
    return gather is not None and bool((gather.copy_numbers > 0).any())


def _uncovered(map_: LinearMap) -> Mask:
    """Second moments: units that read nothing are new, and all of them may be filled."""
    return Mask(~map_.covered(), torch.zeros(map_.outputs, dtype=torch.bool))


def _mean_of_new(small: int, large: int) -> Select:
    """Units behind the old ones hold the mean of all old ones."""
    index = torch.where(torch.arange(large) < small, EMPTY, MEAN)
    return Select(index, (index == MEAN).to(torch.float64), small)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return (left[:, None] | right[None, :]).flatten()


def _raw_copies(map_: LinearMap, *, first_only: bool) -> LinearMap:
    """The same gather with weight 1: of every copy, or of the first copy of each unit."""
    if map_.is_identity:
        return map_
    if (gather := map_.gather) is None:
        raise GrowthError(
            "moments can only be kept or copied under maps that copy units",
            fix="use --moments transport or reset",
        )
    kept = gather.copy_numbers == 0 if first_only else gather.index >= 0
    return Select(torch.where(kept, gather.index, EMPTY), kept.to(torch.float64), gather.units)
