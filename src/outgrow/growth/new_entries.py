"""Which entries of a grown tensor are new: what a boost, a frozen old part and a mask ask after a growth.

    old(i, j, ...) = its layer is the original  and  for every dimension: the unit is the first copy of its source

Everything else is new: later copies, fresh units, means, new layers. It is kept as one flag per unit and dimension;
a dense mask is made only by who asks for one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from outgrow.algebra.linear import LinearMap
from outgrow.errors import GrowthError
from outgrow.growth.plan import GrowthPlan

Region = tuple[slice | Tensor, ...]
"""One index per dimension; tensors among them broadcast against each other, so `tensor[region]` is a block."""


@dataclass(frozen=True, eq=False)
class NewEntries:
    """The new entries of one tensor: in a new layer all of them, else those in a new unit of any dimension."""

    units: tuple[Tensor, ...]
    """Per dimension, bool (units,): which units are new."""
    new_layer: bool = False

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self.new_layer or any(bool(flags.any()) for flags in self.units)

    @property
    def all(self) -> bool:
        """Whether every entry is new."""
        return self.new_layer or any(bool(flags.all()) for flags in self.units)

    def mask(self) -> Tensor:
        """bool, of the tensor's shape: dense, for tests and small tensors.

        >>> NewEntries((torch.tensor([False, True]), torch.tensor([False, False, True]))).mask().int().tolist()
        [[0, 0, 1], [1, 1, 1]]
        """
        new = torch.tensor(self.new_layer)
        for dim, flags in enumerate(self.units):
            new = new | flags.view([-1 if other == dim else 1 for other in range(len(self.units))])
        return new.expand([len(flags) for flags in self.units]).clone()

    def regions(self) -> tuple[Region, ...]:
        """Disjoint blocks that hold the new entries and nothing else: at most one per dimension.

        Block k: old units of the dimensions before k, new units of dimension k, all of those behind it.

        >>> entries = NewEntries((torch.tensor([False, True]), torch.tensor([False, False, True])))
        >>> entries.regions()
        ((slice(1, 2, None), slice(0, 3, None)), (slice(0, 1, None), slice(2, 3, None)))
        """
        if self.new_layer:
            return (tuple(slice(0, len(flags)) for flags in self.units),)
        return tuple(self._blocks())

    def _blocks(self) -> Iterator[Region]:
        for dim, flags in enumerate(self.units):
            chosen = [~before for before in self.units[:dim]] + [flags]
            if all(bool(one.any()) for one in chosen):
                rest = [torch.ones_like(behind) for behind in self.units[dim + 1 :]]
                yield region([*chosen, *rest])


def new_entries(plan: GrowthPlan) -> dict[str, NewEntries]:
    """The new entries of every grown tensor, by name; a pure function of the plan, so a resumed run makes it again.

    Raises GrowthError where units or layers are mixtures of old ones (learned maps): then no entry is just old.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.methods.build import build
    >>> from outgrow.growth.plan import plan
    >>> small = resolve({"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1, "num_hidden_layers": 1,
    ...     "intermediate_size": 3, "vocab_size": 5})
    >>> found = new_entries(plan(build(small, {"intermediate_size": 5, "num_hidden_layers": 2})))
    >>> found["model.layers.0.mlp.up_proj.weight"].units[0].int().tolist()
    [0, 0, 0, 1, 1]
    >>> found["model.layers.1.mlp.up_proj.weight"].new_layer
    True
    """
    mixed = next((layer for layer, row in enumerate(plan.growth.layers.rows) if len(row) > 1), None)
    if mixed is not None:
        raise GrowthError(
            f"layer {mixed} is a mixture of old layers: none of its entries is just old or new",
            fix="leave out new_entries, freeze: old and masks for this growth",
        )
    if any(one.pieces > 1 or one.redrawn is not None for one in plan.growth.experts):
        raise GrowthError(
            "experts that are cut in pieces or drawn anew have no old and new entries",
            fix="leave out new_entries, freeze: old and masks for this growth",
        )
    owners = set(_owners(plan).values())
    found: dict[str, NewEntries] = {}
    known: dict[LinearMap, Tensor] = {}
    for name, recipe in plan.recipes["weight"].items():
        if name in owners:
            for map_ in recipe.terms[0].maps:
                if map_ not in known:
                    known[map_] = _not_first(map_, name)
            found[name] = NewEntries(tuple(known[map_] for map_ in recipe.terms[0].maps))
        else:
            flags = tuple(torch.zeros((), dtype=torch.bool).expand(size) for size in recipe.shape)
            found[name] = NewEntries(flags, new_layer=True)
    return found


def _owners(plan: GrowthPlan) -> dict[str, str]:
    """Old tensor -> the new one that stands for it: in the original layer, or where a post-norm model moved it."""
    originals = set(plan.growth.layers.originals().values())
    owners: dict[str, str] = {}
    for in_original in (True, False):
        for name, recipe in plan.recipes["weight"].items():
            layer = plan.large.parameters[name].layer
            source = recipe.terms[0].source if recipe.terms else None
            if not isinstance(source, str) or source not in plan.small.parameters:
                continue  # a number, or a layer that was predicted
            if (layer is None or layer in originals) == in_original:
                owners.setdefault(source, name)
    return owners


def _not_first(map_: LinearMap, name: str) -> Tensor:
    """bool (outputs,): units that are not the first copy of an old unit."""
    if map_.gather is None:
        raise GrowthError(
            f"the units of '{name}' are mixtures of old ones: none is just old or new",
            fix="leave out new_entries, freeze: old and masks for this growth",
        )
    return map_.gather.copy_numbers != 0


def region(chosen: list[Tensor]) -> Region:
    """Flags per dimension as an index: a slice where they are one stretch (a view, no gather), else places."""
    spans: list[slice | Tensor] = []
    for flags in chosen:
        places = flags.nonzero().flatten()
        first, count = int(places[0]), len(places)
        spans.append(slice(first, first + count) if int(places[-1]) == first + count - 1 else places)
    gathered = [dim for dim, span in enumerate(spans) if isinstance(span, Tensor)]
    for place, dim in enumerate(gathered):
        span = spans[dim]
        assert isinstance(span, Tensor)
        spans[dim] = span.view([-1 if other == place else 1 for other in range(len(gathered))])
    return tuple(spans)
