"""How an axis and a stack of layers grow.

An axis grows by two maps: activations by `forward` (F), gradients with respect to activations by `backward` (G), and

    Gᵀ F = I.

A weight that writes axis o and reads axis i then grows as W' = F_o W G_iᵀ, and its gradient as F and G swapped.
A `LayerMap` says which old layers a new layer is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.linear import EMPTY, MEAN, Dense, Identity, LinearMap, Select
from outgrow.algebra.products import compose, product_error
from outgrow.errors import GrowthError

FreshSide = Literal["writers", "readers", "both", "none"]
Silencing = Literal["outputs", "norms", "pairs"]


@dataclass(frozen=True)
class AxisMap:
    """The pair of maps by which an axis grows from d to D units.

    `fresh` says on which side a new unit that copies nothing holds new values. On one side the function is kept: its
    `writers` (the readers are zero, as for MLP units) or its `readers` (the writers are zero, as for the stream). On
    `both` it is not kept; on `none` the unit is dead until noise or another term reaches it.
    """

    forward: LinearMap
    backward: LinearMap
    fresh: FreshSide = "writers"

    @property
    def small(self) -> int:
        """d, units before."""
        return self.forward.inputs

    @property
    def large(self) -> int:
        """D, units after."""
        return self.forward.outputs

    @property
    def grows(self) -> bool:
        """Whether anything changes."""
        return not self.forward.is_identity

    @property
    def even(self) -> bool:
        """Whether all copies of a unit have the same weights, so that nothing tells them apart."""
        if self.forward.is_identity:
            return True
        for map_ in (self.forward.gather, self.backward.gather):
            if map_ is None:
                return False
            copied = map_.index >= 0
            index, weight = map_.index[copied], map_.weight[copied]
            highest = torch.full((map_.units,), -torch.inf, dtype=torch.float64).scatter_reduce(
                0, index, weight, "amax"
            )
            if float((highest[index] - weight).abs().max()) > 1e-12:
                return False
        return True

    def residual(self) -> float:
        """max |Gᵀ F - I|: 0 for a proper pair."""
        return product_error(self.backward, self.forward)

    def then(self, later: AxisMap) -> AxisMap:
        """This growth, then a later one."""
        return AxisMap(
            compose(later.forward, self.forward), compose(later.backward, self.backward), later.fresh
        )

    def norm_ratio(self) -> float | None:
        """c where FᵀF = c·I (mean rows left out, see `constraints`), else None.

        >>> round(copies(copy_index(4, 6), 4, forward_power=0.5).norm_ratio(), 12)
        1.0
        """
        if self.forward.is_identity:
            return 1.0
        gather = self.forward.gather
        copied = self.forward if gather is None else gather.only(gather.index >= 0)
        first = torch.eye(self.small, 1, dtype=torch.float64)
        ratio = float(copied.apply(first, 0).square().sum())
        return ratio if product_error(copied, copied, ratio) < 1e-12 * ratio else None


def identity(size: int) -> AxisMap:
    """An axis that does not grow."""
    return AxisMap(Identity(size), Identity(size))


def copy_index(small: int, large: int) -> Tensor:
    """Cyclic copies: new unit r copies old unit r mod d, so counts differ by one at most.

    >>> copy_index(4, 6).tolist()
    [0, 1, 2, 3, 0, 1]
    """
    return torch.arange(large) % small


def copies(index: Tensor, small: int, *, forward_power: float = 0.0) -> AxisMap:
    """Copy unit `index[r]` to every new unit r; a unit with count n is written times n^-p and read times n^(p-1).

    p = 0 are plain copies whose readers share (Net2Net), p = 1/2 is the isometric map: FᵀF = I and G = F.

    >>> copies(torch.tensor([0, 1, 0]), 2).backward.matrix().tolist()
    [[0.5, 0.0], [0.0, 1.0], [0.5, 0.0]]
    """
    if len(index) == small and torch.equal(index, torch.arange(small)):
        return identity(small)
    counts = torch.bincount(index, minlength=small).to(torch.float64)
    if bool((counts == 0).any()):
        raise GrowthError(
            f"unit {int((counts == 0).nonzero()[0])} of {small} would be lost", expected="each unit copied"
        )
    count = counts[index]
    return AxisMap(
        Select(index, count**-forward_power, small),
        Select(index, count ** (forward_power - 1), small),
    )


def padding(
    small: int, large: int, *, fresh: FreshSide, mean: bool = False, places: Tensor | None = None
) -> AxisMap:
    """Keep the old units and add units that copy nothing (or, with `mean`, hold the mean of the old ones).

    `places` (small,) says where the old units go; default: first.

    >>> padding(2, 3, fresh="writers").forward.matrix().tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    if small == large and places is None:
        return identity(small)
    index = torch.full((large,), EMPTY, dtype=torch.int64)
    index[torch.arange(small) if places is None else places] = torch.arange(small)
    old = (index >= 0).to(torch.float64)
    backward = Select(index, old, small)
    if not mean:
        return AxisMap(backward, backward, fresh)
    averaged = torch.where(index == EMPTY, MEAN, index)
    return AxisMap(Select(averaged, torch.ones(large, dtype=torch.float64), small), backward, fresh)


def resampled(small: int, large: int) -> AxisMap:
    """Values between the old ones, by straight lines from the first to the last: a finer grid of positions.

    >>> resampled(2, 3).forward.matrix().tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    if small == large:
        return identity(small)
    place = torch.arange(large, dtype=torch.float64) * (small - 1) / max(large - 1, 1)
    low = place.floor().long().clamp(max=max(small - 2, 0))
    share = place - low
    values = torch.zeros(large, small, dtype=torch.float64)
    values[torch.arange(large), low] = 1 - share
    values[torch.arange(large), (low + 1).clamp(max=small - 1)] += share
    return AxisMap(Dense(values), Dense(values), "none")


def rescaled(axis: AxisMap, factor: float) -> AxisMap:
    """Activations times `factor`, gradients divided by it: GᵀF stays I."""
    return AxisMap(axis.forward.scaled(factor), axis.backward.scaled(1 / factor), axis.fresh)


@dataclass(frozen=True)
class LayerMap:
    """New layer -> ((old layer, weight), ...); an empty row is a fresh layer. `silent` layers output zero.

    `silenced` says how: the last matrix of each branch is zero (`outputs`), the stream's norms and all biases are
    (`norms`), or the units inside a branch cancel in pairs, by parts of the growth, and its last bias is zero (`pairs`).

    >>> LayerMap.of([0, 1, 0, 1]).sources(2)
    (0,)
    """

    rows: tuple[tuple[tuple[int, float], ...], ...]
    small: int
    silent: frozenset[int] = frozenset()
    silenced: Silencing = "outputs"

    @classmethod
    def of(cls, index: Sequence[int], *, small: int | None = None, silent: Sequence[int] = ()) -> LayerMap:
        """Each new layer copies one old layer."""
        rows = tuple(((source, 1.0),) for source in index)
        return cls(rows, small if small is not None else max(index) + 1, frozenset(silent))

    @property
    def large(self) -> int:
        """Layers after."""
        return len(self.rows)

    @property
    def grows(self) -> bool:
        """Whether anything changes."""
        return self != LayerMap.of(range(self.small), small=self.small)

    @property
    def has_fresh(self) -> bool:
        """Whether any layer is made of no old one."""
        return not all(self.rows)

    def sources(self, layer: int) -> tuple[int, ...]:
        """Old layers that new layer `layer` is made of."""
        return tuple(source for source, _ in self.rows[layer])

    def originals(self) -> dict[int, int]:
        """Old layer -> the new layer that stands for it: its first copy that is not silent."""
        found: dict[int, int] = {}
        for layer in range(self.large):
            if layer not in self.silent:
                for source in self.sources(layer):
                    found.setdefault(source, layer)
        return found

    def then(self, later: LayerMap) -> LayerMap:
        """This growth, then a later one; a copy of a silent layer is silent."""
        rows, silent = [], set(later.silent)
        for new, row in enumerate(later.rows):
            mixed: dict[int, float] = {}
            for middle, weight in row:
                for old, share in self.rows[middle]:
                    mixed[old] = mixed.get(old, 0.0) + weight * share
            rows.append(tuple(mixed.items()))
            if any(middle in self.silent for middle, _ in row):
                silent.add(new)
        silenced = self.silenced if self.silent else later.silenced
        return LayerMap(tuple(rows), self.small, frozenset(silent), silenced)
