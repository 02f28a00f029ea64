"""A grown tensor is a recipe: a sum of mapped source tensors, plus what is filled in.

    tensor = Σ_k coefficient_k · (⊗ over dims M_k,dim) · source_k  +  fills

Any published growth of one tensor fits (docs/explanation/maths.md), and a recipe can be cooked a few rows at a time: that is what
streaming, sharded loading and growth in memory all do. A recipe knows tensors and maps, no file and no operator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.linear import LinearMap, Select
from outgrow.algebra.noise import normal_at, normal_rows

Read = Callable[[str, slice | Tensor], Tensor]
"""(source tensor name, rows of dimension 0) -> those rows."""
Statistic = Callable[[str, Literal["mean", "rms", "lowest"]], float]
"""(source tensor name, which) -> the mean, the root mean square, or the lowest, of its entries."""


@dataclass(frozen=True)
class Term:
    """One source tensor (or a constant of the source's shape), mapped along every dimension."""

    source: str | float
    maps: tuple[LinearMap, ...]
    coefficient: float = 1.0


class Fill(ABC):
    """What is added where no source reaches. Final: Fresh, CommonRows, Below, Redrawn, Invisible, Level."""

    @abstractmethod
    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        """Rows `start` to `stop` of what is added; broadcasts to (stop - start, *shape[1:])."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which units of one dimension are new (`fresh`), and which must stay zero to keep the function (`barred`)."""

    fresh: Tensor  # bool (units,)
    barred: Tensor  # bool (units,)

    @cached_property
    def has_fresh(self) -> bool:
        """Whether any unit is new."""
        return bool(self.fresh.any())


def fresh_entries(masks: tuple[Mask, ...], start: int, stop: int) -> Tensor:
    """bool (stop - start, ...): entries in a fresh unit of some dimension and in a barred unit of none."""
    fresh = torch.zeros((), dtype=torch.bool)
    barred = torch.zeros((), dtype=torch.bool)
    for dim, mask in enumerate(masks):
        view = [-1 if other == dim else 1 for other in range(len(masks))]
        rows = slice(start, stop) if dim == 0 else slice(None)
        fresh = fresh | mask.fresh[rows].view(view)
        barred = barred | mask.barred[rows].view(view)
    return fresh & ~barred


@dataclass(frozen=True, eq=False)
class Fresh(Fill):
    """New entries drawn from N(0, std²), where the masks allow; with no masks, everywhere.

    `of` names a source tensor: std is then in units of its root mean square.
    """

    std: float
    seed: int
    name: str
    masks: tuple[Mask, ...] = ()
    of: str | None = None

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        columns = _columns(shape)
        values = normal_rows(self.seed, self.name, start, stop, columns).view(stop - start, *shape[1:])
        values.mul_(_absolute(self.std, self.of, statistic))
        return values.mul_(fresh_entries(self.masks, start, stop)) if self.masks else values


@dataclass(frozen=True, eq=False)
class Level(Fill):
    """Second moments of new entries: the mean of the source's, so that a kept step count gives no wild first update.

    With v = 0 and a large step, Adam's first update of an entry is (1-β₁)/√(1-β₂) = 3.2 learning rates and the tenth
    6.5; with v at the tensor's mean it is at most of the usual size.
    """

    source: str
    masks: tuple[Mask, ...]

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        return fresh_entries(self.masks, start, stop) * statistic(self.source, "mean")


@dataclass(frozen=True, eq=False)
class CommonRows(Fill):
    """Rows drawn from N(0, std²), the same for all rows with one number (`rows`, -1 for none). `of` as in `Fresh`."""

    std: float
    seed: int
    name: str
    rows: Tensor  # int64 (outputs,)
    of: str | None = None

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        wanted, columns = self.rows[start:stop], _columns(shape)
        numbers = torch.unique(wanted[wanted >= 0])
        drawn = torch.zeros(len(wanted), columns)
        if len(numbers):
            table = normal_at(self.seed, self.name, numbers, columns)
            place = torch.searchsorted(numbers, wanted.clamp(min=0)).clamp(max=len(numbers) - 1)
            drawn = torch.where((wanted >= 0)[:, None], table[place], 0.0)
        return drawn.view(stop - start, *shape[1:]) * _absolute(self.std, self.of, statistic)


@dataclass(frozen=True, eq=False)
class Below(Fill):
    """Units of a vector that stand one below the lowest entry of a source tensor."""

    units: Tensor  # bool (outputs,)
    of: str

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        return self.units[start:stop] * (statistic(self.of, "lowest") - 1.0)


@dataclass(frozen=True, eq=False)
class Redrawn(Fill):
    """Cells (unit of dimension 0, unit of `dim`) drawn from N(mean, std²) of a source tensor; or, with `level`, at
    `level` times its mean."""

    cells: Tensor  # bool (outputs of dimension 0, outputs of `dim`)
    dim: int
    of: str
    seed: int
    name: str
    level: float | None = None

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        view = [1] * len(shape)
        view[0], view[self.dim] = stop - start, shape[self.dim]
        cells = self.cells[start:stop].view(view)
        mean = statistic(self.of, "mean")
        if self.level is not None:
            return cells * (self.level * mean)
        std = max(0.0, statistic(self.of, "rms") ** 2 - mean**2) ** 0.5
        drawn = normal_rows(self.seed, self.name, start, stop, _columns(shape)).view(stop - start, *shape[1:])
        return drawn.mul_(std).add_(mean).mul_(cells)


@dataclass(frozen=True, eq=False)
class Invisible(Fill):
    """Noise that readers cannot see: N - N F Gᵀ along a read dimension, so that (W + noise) F = W F.

    Units that copy nothing get none: what they carry is not F x. `of` as in `Fresh`.
    """

    std: float
    seed: int
    name: str
    dim: int
    forward: Select
    backward: Select
    of: str | None = None

    def block(self, start: int, stop: int, shape: tuple[int, ...], statistic: Statistic) -> Tensor:
        columns, units = _columns(shape), self.forward.index
        std = _absolute(self.std, self.of, statistic)
        weight = torch.where(units >= 0, self.forward.weight, 0.0)
        if self.dim == 0:
            # Rows that copy the same unit cancel each other, so all of them are drawn, wherever they stand.
            rows = torch.isin(units, units[start:stop]).nonzero().flatten()
            rows = rows[units[rows] >= 0]
            noise = normal_at(self.seed, self.name, rows, columns).double().mul_(std)
            seen = torch.zeros(self.forward.inputs, columns, dtype=torch.float64)
            seen.index_add_(0, units[rows], noise * weight[rows, None])
            block = -self.backward.rows(start, stop).apply(seen, 0)
            here = (rows >= start) & (rows < stop)
            block[rows[here] - start] += noise[here]
            return block.view(stop - start, *shape[1:])
        noise = normal_rows(self.seed, self.name, start, stop, columns).double().mul_(std)
        keep = units >= 0
        noise = (noise.view(stop - start, *shape[1:]).movedim(self.dim, -1) * keep).contiguous()
        seen = torch.zeros(*noise.shape[:-1], self.forward.inputs, dtype=torch.float64)
        seen.index_add_(-1, units[keep], noise[..., keep] * weight[keep])
        return (noise - self.backward.apply(seen, noise.dim() - 1)).movedim(-1, self.dim)


@dataclass(frozen=True)
class Recipe:
    """How one grown tensor is made."""

    name: str
    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    fills: tuple[Fill, ...] = ()
    follows: tuple[str, Recipe] | None = None
    """(slot, recipe) of the other factor of a second moment: what is cooked is then multiplied by the growth of its mean."""

    def __str__(self) -> str:
        terms = [
            f"{term.source}" if term.coefficient == 1 else f"{term.coefficient:g}·{term.source}"
            for term in self.terms
        ]
        parts = terms + [type(fill).__name__.lower() for fill in self.fills]
        return f"{self.name} {list(self.shape)} = {' + '.join(parts) or '0'}"


def evaluate(
    recipe: Recipe, read: Read, statistic: Statistic, start: int, stop: int, dtype: torch.dtype
) -> Tensor:
    """Rows `start` to `stop` of the grown tensor, computed in `dtype`.

    >>> from outgrow.algebra.linear import Identity
    >>> source = torch.arange(6.0).view(3, 2)
    >>> recipe = Recipe("w", (3, 2), (Term("w", (Identity(3), Identity(2)), 2.0),))
    >>> evaluate(recipe, lambda name, rows: source[rows], lambda name, which: 0.0, 1, 2, torch.float32).tolist()
    [[4.0, 6.0]]
    """
    if any(map_.gather is None for term in recipe.terms for map_ in term.maps):
        total = _in_panels(recipe, read, start, stop, dtype)
    else:
        total = _term_by_term(recipe, read, start, stop, dtype)
    for fill in recipe.fills:
        total = total + fill.block(start, stop, recipe.shape, statistic).to(dtype)
    assert tuple(total.shape) == (stop - start, *recipe.shape[1:]), (recipe, total.shape)
    return total


def _term_by_term(recipe: Recipe, read: Read, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Every source mapped along its other dimensions, then along the rows that are asked for."""
    total: Tensor | None = None
    skipped = False
    for term in recipe.terms:
        rows, head = term.maps[0].rows(start, stop).sources()
        if not head.inputs:
            skipped = True  # none of these rows reads anything: one of many experts
            continue
        block = _source(term, read, rows, head.inputs, dtype)
        for dim, map_ in enumerate(term.maps[1:], start=1):
            block = map_.apply(block, dim)
        block = head.apply(block, 0)
        if term.coefficient != 1.0:
            block = block * term.coefficient
        total = block if total is None else total + block
    if total is None:
        return torch.zeros((stop - start, *recipe.shape[1:]), dtype=dtype)
    return (
        total + 0.0 if skipped else total
    )  # as if the zeros had been added: no -0.0 depends on the rows asked for


PANEL_ROWS = 256
"""Rows of a learned tensor that are computed at once."""


def _in_panels(recipe: Recipe, read: Read, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Rows under dense maps. A matrix product rounds by its shape, so whole panels are computed, always the same ones."""
    places = range(start // PANEL_ROWS * PANEL_ROWS, stop, PANEL_ROWS)
    panels = [
        _panel(recipe, read, place, min(place + PANEL_ROWS, recipe.shape[0]), dtype) for place in places
    ]
    if not panels:
        return torch.zeros((0, *recipe.shape[1:]), dtype=dtype)
    return torch.cat(panels)[start - places[0] : stop - places[0]]


def _panel(recipe: Recipe, read: Read, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Sources under the same maps are mixed first, so that layers cost one product each and mixtures none."""
    alike: dict[tuple[LinearMap, ...], list[Term]] = {}
    for term in recipe.terms:
        alike.setdefault(term.maps, []).append(term)
    total = torch.zeros((stop - start, *recipe.shape[1:]), dtype=dtype)
    for terms in alike.values():
        maps = terms[0].maps
        rows, head = maps[0].rows(start, stop).sources()
        blocks = (_source(term, read, rows, head.inputs, dtype) * term.coefficient for term in terms)
        mixed = next(blocks)
        for block in blocks:
            mixed = mixed + block
        mixed = head.apply(mixed, 0)
        for dim, map_ in enumerate(maps[1:], start=1):
            mixed = map_.apply(mixed, dim)
        total += mixed
    return total


def _source(term: Term, read: Read, rows: slice | Tensor, count: int, dtype: torch.dtype) -> Tensor:
    if isinstance(term.source, str):
        return read(term.source, rows).to(dtype)
    return torch.full((count, *(map_.inputs for map_ in term.maps[1:])), term.source, dtype=dtype)


def _absolute(std: float, of: str | None, statistic: Statistic) -> float:
    return std if of is None else std * statistic(of, "rms")


def _columns(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count
