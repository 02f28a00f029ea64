"""A grown tensor is a recipe: a sum of mapped source tensors, plus what is filled in.

    tensor = Σ_k coefficient_k · (⊗ over dims M_k,dim) · source_k  +  fills

Any published growth of one tensor fits (docs/maths.md), and any box of it can be cooked alone: that is what streaming,
sharded loading and growth in memory all do. A recipe knows tensors and maps, no file and no operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from outgrow.algebra.cells import Blocks, put_blocks, within
from outgrow.algebra.fills import Fill, Statistic
from outgrow.algebra.linear import LinearMap
from outgrow.algebra.noise import Box

Read = Callable[[str, slice | Tensor], Tensor]
"""(source tensor name, rows of dimension 0) -> those rows."""
MeanRow = Callable[[str], Tensor]
"""Source tensor name -> the mean of its rows, float64."""


@dataclass(frozen=True)
class Term:
    """One source tensor (or a constant of the source's shape), mapped along every dimension."""

    source: str | float
    maps: tuple[LinearMap, ...]
    coefficient: float = 1.0


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

    @cached_property
    def layout(self) -> Layout | None:
        """How its cells lie; None where a map mixes units."""
        return _layout(self)


@dataclass(frozen=True)
class Layout:
    """A recipe whose maps are stretches: terms and placed fills as blocks, and what has to be added number by number."""

    terms: tuple[Blocks, ...]
    placed: tuple[tuple[Fill, tuple[Blocks, ...]], ...]
    """Fills whose entries nothing else reaches."""
    added: tuple[Fill, ...]
    overlap: bool
    """Whether terms reach the same entries."""

    @property
    def sums(self) -> bool:
        """Whether any number is a sum, so that it is computed in a wider dtype and rounded once."""
        return self.overlap or bool(self.added)

    @property
    def gathers(self) -> bool:
        """Whether numbers pass through a wider dtype on their way."""
        return any(blocks.gathers for blocks in self.terms)


def _layout(recipe: Recipe) -> Layout | None:
    terms = []
    for term in recipe.terms:
        blocks = Blocks.of(term.maps)
        if blocks is None:
            return None
        terms.append(blocks)
    placed: list[tuple[Fill, tuple[Blocks, ...]]] = []
    added: list[Fill] = []
    for fill in recipe.fills:
        own = fill.blocks(recipe.shape)
        taken = [*terms, *(one for _, blocks in placed for one in blocks)]
        if own is None or any(one.overlaps(other) for one in own for other in taken):
            added.append(fill)
        else:
            placed.append((fill, own))
    overlap = any(one.overlaps(other) for place, one in enumerate(terms) for other in terms[:place])
    return Layout(tuple(terms), tuple(placed), tuple(added), overlap)


def evaluate_recipe(
    recipe: Recipe,
    read: Read,
    statistic: Statistic,
    mean_row: MeanRow,
    box: Box,
    *,
    wide: torch.dtype,
    dtype: torch.dtype,
) -> Tensor:
    """A box of the grown tensor in `dtype`; what is summed or averaged is computed in `wide` and rounded once.

    No bit depends on the box.

    >>> from outgrow.algebra.linear import Identity
    >>> source = torch.arange(6.0).view(3, 2)
    >>> recipe = Recipe("w", (3, 2), (Term("w", (Identity(3), Identity(2)), 2.0),))
    >>> evaluate_recipe(recipe, lambda name, rows: source[rows], lambda name, which: 0.0, lambda name: source.mean(0),
    ...     ((1, 2), (0, 2)), wide=torch.float32, dtype=torch.float32).tolist()
    [[4.0, 6.0]]
    """
    made = _Kitchen(recipe, read, statistic, mean_row, wide)
    if recipe.layout is not None:
        return made.by_cells(recipe.layout, box, dtype)
    total = _cut(made.in_panels(*box[0]), box)
    for fill in recipe.fills:
        fill.add_to(total, box, recipe.shape, statistic)
    return total.to(dtype)


CHUNK = 1 << 20
"""Numbers that are summed at once: few enough for the cache, enough that what a gather looks up first does not count."""
PANEL_ROWS = 256
"""Rows of a learned tensor that are computed at once."""


@dataclass(frozen=True)
class _Kitchen:
    """One recipe and where its sources come from."""

    recipe: Recipe
    read: Read
    statistic: Statistic
    mean_row: MeanRow
    wide: torch.dtype

    def by_cells(self, layout: Layout, box: Box, dtype: torch.dtype) -> Tensor:
        """Block copies; where numbers are added or gathered, a few rows at a time in the wider dtype."""
        begun = torch.empty if layout.terms and layout.terms[0].fills_all else torch.zeros
        out = begun([stop - start for start, stop in box], dtype=dtype)
        (first, last), others = box[0], box[1:]
        numbers = max(1, prod(stop - start for start, stop in others))
        step = max(1, CHUNK // numbers) if layout.sums or layout.gathers else max(1, last - first)
        for start in range(first, last, step):
            here = ((start, min(start + step, last)), *others)
            target = within(out, box, here)
            if not layout.sums:
                self._place(target, layout, here)
                continue
            total = begun(target.shape, dtype=self.wide)
            self._place(total, layout, here)
            for fill in layout.added:
                fill.add_to(total, here, self.recipe.shape, self.statistic)
            target.copy_(total)
        return out

    def _place(self, out: Tensor, layout: Layout, box: Box) -> None:
        for place, (term, blocks) in enumerate(zip(self.recipe.terms, layout.terms, strict=True)):
            put_blocks(
                out,
                box,
                blocks,
                self._part(term),
                term.coefficient,
                self.wide,
                add=layout.overlap and place > 0,
            )
        for fill, regions in layout.placed:
            for region in regions:
                for cell, _ in region.cells(box):
                    fill.put(within(out, box, cell), cell, self.recipe.shape, self.statistic)

    def _part(self, term: Term) -> Callable[[slice | Tensor | None], Tensor] | float:
        source = term.source
        if not isinstance(source, str):
            return source
        return lambda rows: self.mean_row(source)[None] if rows is None else self.read(source, rows)

    def in_panels(self, start: int, stop: int) -> Tensor:
        """Rows under dense maps. A matrix product rounds by its shape, so whole panels are computed, always the same ones."""
        places = range(start // PANEL_ROWS * PANEL_ROWS, stop, PANEL_ROWS)
        panels = [self._panel(place, min(place + PANEL_ROWS, self.recipe.shape[0])) for place in places]
        if not panels:
            return torch.zeros((0, *self.recipe.shape[1:]), dtype=self.wide)
        return torch.cat(panels)[start - places[0] : stop - places[0]]

    def _panel(self, start: int, stop: int) -> Tensor:
        """Sources under the same maps are mixed first, so that layers cost one product each and mixtures none."""
        alike: dict[tuple[LinearMap, ...], list[Term]] = {}
        for term in self.recipe.terms:
            alike.setdefault(term.maps, []).append(term)
        total = torch.zeros((stop - start, *self.recipe.shape[1:]), dtype=self.wide)
        for terms in alike.values():
            maps = terms[0].maps
            rows, head = maps[0].rows(start, stop).sources()
            blocks = (self._source(term, rows, head.inputs) * term.coefficient for term in terms)
            mixed = next(blocks)
            for block in blocks:
                mixed = mixed + block
            mixed = head.apply(mixed, 0)
            for dim, map_ in enumerate(maps[1:], start=1):
                mixed = map_.apply(mixed, dim)
            total += mixed
        return total

    def _source(self, term: Term, rows: slice | Tensor, count: int) -> Tensor:
        if isinstance(term.source, str):
            return self.read(term.source, rows).to(self.wide)
        return torch.full((count, *(map_.inputs for map_ in term.maps[1:])), term.source, dtype=self.wide)


def _cut(rows: Tensor, box: Box) -> Tensor:
    """Whole rows cut to the box's other dimensions."""
    for dim, (start, stop) in enumerate(box[1:], start=1):
        rows = rows.narrow(dim, start, stop - start)
    return rows
