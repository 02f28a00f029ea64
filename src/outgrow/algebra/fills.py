"""What a grown tensor holds where no source reaches, or on top of it: fresh numbers, levels, noise that no reader sees.

A fill says in which blocks all its entries lie (then it is written there), or is added to what is there. Random numbers
have the address of their entry (`noise`), so a fill is the same in any box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import hypot, isclose
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from outgrow.algebra.cells import Blocks, within
from outgrow.algebra.linear import EMPTY, Run, Select
from outgrow.algebra.noise import Box, normal, normal_at, normal_box

Statistic = Callable[[str, Literal["mean", "rms", "lowest"]], float]
"""(source tensor name, which) -> the mean, the root mean square, or the lowest, of its entries."""


class Fill(ABC):
    """What is added where no source reaches. Final: Fresh, Level, CommonRows, Below, Redrawn, Invisible."""

    @abstractmethod
    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        """What is added in a box of a tensor of this shape; broadcasts to the box."""

    def blocks(self, shape: tuple[int, ...]) -> tuple[Blocks, ...] | None:
        """The disjoint blocks that it fills whole, touching nothing else; None where there are no such few."""
        return None

    def put(self, out: Tensor, cell: Box, shape: tuple[int, ...], statistic: Statistic) -> None:
        """Write a cell of one of its blocks."""
        raise NotImplementedError

    def add_to(self, total: Tensor, box: Box, shape: tuple[int, ...], statistic: Statistic) -> None:
        """Add it to what a box holds."""
        total.add_(self.block(box, shape, statistic, total.dtype))


@dataclass(frozen=True, eq=False)
class Mask:
    """Which units of one dimension are new (`fresh`), and which must stay zero to keep the function (`barred`)."""

    fresh: Tensor  # bool (units,)
    barred: Tensor  # bool (units,)

    @cached_property
    def has_fresh(self) -> bool:
        """Whether any unit is new."""
        return bool(self.fresh.any())

    @cached_property
    def runs(self) -> dict[str, tuple[Run, ...] | None]:
        """Units that are fresh, old, and either, none of them barred, as runs."""
        kinds = {"fresh": self.fresh & ~self.barred, "old": ~(self.fresh | self.barred), "any": ~self.barred}
        return {name: _flagged(flags) for name, flags in kinds.items()}


def _flagged(flags: Tensor) -> tuple[Run, ...] | None:
    index = torch.where(flags, torch.arange(len(flags)), EMPTY)
    return Select(index, flags.to(torch.float64), len(flags)).runs


def fresh_entries(masks: tuple[Mask, ...], box: Box) -> Tensor:
    """bool, of the box: entries in a fresh unit of some dimension and in a barred unit of none."""
    fresh = torch.zeros((), dtype=torch.bool)
    barred = torch.zeros((), dtype=torch.bool)
    for dim, (mask, (start, stop)) in enumerate(zip(masks, box, strict=True)):
        view = [-1 if other == dim else 1 for other in range(len(masks))]
        fresh = fresh | mask.fresh[start:stop].view(view)
        barred = barred | mask.barred[start:stop].view(view)
    return fresh & ~barred


def _fresh_blocks(masks: tuple[Mask, ...]) -> tuple[Blocks, ...] | None:
    """The same as blocks: old units of the dimensions before k, fresh ones of dimension k, any behind it."""
    found = []
    for place in range(len(masks)):
        kinds = ("old" if dim < place else "fresh" if dim == place else "any" for dim in range(len(masks)))
        runs = [mask.runs[kind] for mask, kind in zip(masks, kinds, strict=True)]
        dims = tuple(one for one in runs if one is not None)
        if len(dims) < len(runs):
            return None
        found.append(Blocks(dims))
    return tuple(found)


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

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        values = self._drawn(box, shape, statistic, dtype)
        return values.mul_(fresh_entries(self.masks, box)) if self.masks else values

    def blocks(self, shape: tuple[int, ...]) -> tuple[Blocks, ...] | None:
        return _fresh_blocks(self.masks) if self.masks else (_whole(shape),)

    def put(self, out: Tensor, cell: Box, shape: tuple[int, ...], statistic: Statistic) -> None:
        out.copy_(self._drawn(cell, shape, statistic, out.dtype))

    def _drawn(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        std = _absolute(self.std, self.of, statistic)
        return normal_box(self.seed, self.name, shape, box, std=std, dtype=dtype)


@dataclass(frozen=True, eq=False)
class Level(Fill):
    """Second moments of new entries: the mean of the source's, so that a kept step count gives no wild first update.

    With v = 0 and a large step, Adam's first update of an entry is (1-β₁)/√(1-β₂) = 3.2 learning rates and the tenth
    6.5; with v at the tensor's mean it is at most of the usual size.
    """

    source: str
    masks: tuple[Mask, ...]

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        return fresh_entries(self.masks, box).to(dtype) * statistic(self.source, "mean")

    def blocks(self, shape: tuple[int, ...]) -> tuple[Blocks, ...] | None:
        return _fresh_blocks(self.masks)

    def put(self, out: Tensor, cell: Box, shape: tuple[int, ...], statistic: Statistic) -> None:
        out.fill_(statistic(self.source, "mean"))


@dataclass(frozen=True, eq=False)
class CommonRows(Fill):
    """Rows drawn from N(0, std²), the same for all rows with one number (`rows`, -1 for none). `of` as in `Fresh`."""

    std: float
    seed: int
    name: str
    rows: Tensor  # int64 (outputs,)
    of: str | None = None

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        (start, stop), *others = box
        wanted, columns = self.rows[start:stop], _columns(shape)
        numbers = torch.unique(wanted[wanted >= 0])
        drawn = torch.zeros(len(wanted), columns, dtype=dtype)
        if len(numbers):
            table = normal_at(self.seed, self.name, numbers, columns).to(dtype)
            place = torch.searchsorted(numbers, wanted.clamp(min=0)).clamp(max=len(numbers) - 1)
            drawn = torch.where((wanted >= 0)[:, None], table[place], 0.0)
        whole = drawn.view(stop - start, *shape[1:]) * _absolute(self.std, self.of, statistic)
        return within(
            whole, ((0, stop - start), *((0, size) for size in shape[1:])), ((0, stop - start), *others)
        )


@dataclass(frozen=True, eq=False)
class Below(Fill):
    """Units of a vector that stand one below the lowest entry of a source tensor."""

    units: Tensor  # bool (outputs,)
    of: str

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        return self.units[slice(*box[0])].to(dtype) * (statistic(self.of, "lowest") - 1.0)


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

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        view = [1] * len(shape)
        view[0], view[self.dim] = box[0][1] - box[0][0], box[self.dim][1] - box[self.dim][0]
        cells = self.cells[slice(*box[0]), slice(*box[self.dim])].reshape(view)
        mean = statistic(self.of, "mean")
        if self.level is not None:
            return cells.to(dtype) * (self.level * mean)
        std = max(0.0, statistic(self.of, "rms") ** 2 - mean**2) ** 0.5
        drawn = normal_box(self.seed, self.name, shape, box, std=std, dtype=dtype)
        return drawn.add_(mean).mul_(cells)


@dataclass(frozen=True)
class Copy:
    """A stretch of new units that copies old ones, with its weights in F and G."""

    start: int
    written: float
    read: float


@dataclass(frozen=True, eq=False)
class Invisible(Fill):
    """Noise that readers cannot see: N - N F Gᵀ along a read dimension, so that (W + noise) F = W F.

    Units that copy nothing get none: what they carry is not F x. A unit copied once gets none: it would be seen.
    `of` as in `Fresh`.
    """

    std: float
    seed: int
    name: str
    dim: int
    forward: Select
    backward: Select
    of: str | None = None

    @cached_property
    def groups(self) -> tuple[tuple[int, tuple[Copy, ...]], ...] | None:
        """(length, copies) of every stretch of old units that is copied more than once; None where there are many."""
        written, read = self.forward.runs, self.backward.runs
        if written is None or read is None or self.forward.averages:
            return None
        both = self.backward.covered()
        if not torch.equal(self.forward.index[both], self.backward.index[both]):
            return None
        cuts = sorted({run.start for run in (*written, *read)} | {self.forward.outputs})
        stretches = []  # (first old unit, length, copy)
        for start, stop in pairwise(cuts):
            run, other = _at(written, start), _at(read, start)
            if run.source != EMPTY:
                copy = Copy(start, run.weight, other.weight if other.source != EMPTY else 0.0)
                stretches.append((run.behind(start), stop - start, copy))
        bounds = sorted({old for old, _, _ in stretches} | {old + length for old, length, _ in stretches})
        found: dict[tuple[int, int], list[Copy]] = {}
        for old, length, copy in stretches:
            inside = [bound for bound in bounds if old <= bound <= old + length]
            for low, high in pairwise(inside):
                place = Copy(copy.start + low - old, copy.written, copy.read)
                found.setdefault((low, high), []).append(place)
        return tuple((high - low, tuple(copies)) for (low, high), copies in found.items() if len(copies) > 1)

    def add_to(self, total: Tensor, box: Box, shape: tuple[int, ...], statistic: Statistic) -> None:
        if self.groups is None:
            super().add_to(total, box, shape, statistic)
            return
        std = _absolute(self.std, self.of, statistic)
        begin, end = box[self.dim]

        def at(first: int, last: int) -> Box:
            return (*box[: self.dim], (first, last), *box[self.dim + 1 :])

        for length, copies in self.groups:
            here: dict[tuple[int, int], list[int]] = {}
            for place, copy in enumerate(copies):
                low, high = max(0, begin - copy.start), min(length, end - copy.start)
                if low < high:
                    here.setdefault((low, high), []).append(place)
            for (low, high), places in here.items():
                for place, noise in self._cancelling(copies, places, low, high, at, shape, std, total.dtype):
                    one = copies[place]
                    within(total, box, at(one.start + low, one.start + high)).add_(noise)

    def _cancelling(
        self,
        copies: tuple[Copy, ...],
        places: list[int],
        low: int,
        high: int,
        at: Callable[[int, int], Box],
        shape: tuple[int, ...],
        std: float,
        dtype: torch.dtype,
    ) -> Iterator[tuple[int, Tensor]]:
        """The noise of some copies of the same old units, which the weights of F cancel."""

        def drawn(one: Copy, deviation: float) -> Tensor:
            box = at(one.start + low, one.start + high)
            return normal_box(self.seed, self.name, shape, box, std=deviation, dtype=dtype)

        first, *others = copies
        if len(copies) == 2 and isclose(sum(one.written * one.read for one in copies), 1.0, rel_tol=1e-9):
            # N_a - g_a (f_a N_a + f_b N_b) = f_b (g_b N_a - g_a N_b), and of b the same times -f_a / f_b: one number.
            second = others[0]
            deviation = std * hypot(first.read, second.read)
            common = drawn(first, deviation * second.written)
            for place in places:
                yield place, common if place == 0 else common * (-first.written / second.written)
            return
        noises = [drawn(one, std) for one in copies]
        seen = noises[0] * first.written
        for one, noise in zip(others, noises[1:], strict=True):
            seen += noise * one.written
        for place in places:
            yield place, noises[place] - seen * copies[place].read

    def block(self, box: Box, shape: tuple[int, ...], statistic: Statistic, dtype: torch.dtype) -> Tensor:
        """The same for units that are copied in any order, all copies of those in the box.

        The noise lies in a table: first copies, second ones, and so on, the units that are copied most in front. So what a
        reader sees of it is a sum of its leading parts, and only the end of the work gathers.
        """
        ranked, (begin, end) = self._ranked, box[self.dim]
        gather, counts = ranked.gather.part(begin, end), ranked.sizes
        along_rows = self.dim == len(shape) - 1 and self.dim > 0
        places = torch.arange(len(ranked.written))
        if not along_rows:  # rows are drawn alone: those of the units in the box
            kept = torch.unique(ranked.units[begin:end])
            kept = kept[kept >= 0]
            counts = tuple(int((kept < size).sum()) for size in ranked.sizes)
            places = torch.cat(
                [kept[:count] + start for count, start in zip(counts, ranked.starts, strict=True)]
            )
            index = torch.searchsorted(places, gather.index.clamp(min=0))
            gather = Select(torch.where(gather.index >= 0, index, EMPTY), gather.weight, len(places))
        noise = self._drawn(places, box, shape, _absolute(self.std, self.of, statistic), dtype)
        view = [-1 if dim == self.dim else 1 for dim in range(len(shape))]
        parts = torch.split(noise, list(counts), self.dim)
        written, read = (
            torch.split(one[places].to(dtype).view(view), list(counts), self.dim)
            for one in (ranked.written, ranked.read)
        )
        seen = torch.zeros_like(parts[0])
        for part, weight in zip(parts, written, strict=True):
            seen.narrow(self.dim, 0, part.shape[self.dim]).addcmul_(part, weight)
        for part, weight in zip(parts, read, strict=True):
            part.addcmul_(seen.narrow(self.dim, 0, part.shape[self.dim]), weight, value=-1.0)
        return gather.apply(noise, self.dim)

    @cached_property
    def _ranked(self) -> Ranked:
        return Ranked.of(self.forward, self.backward)

    def _drawn(
        self, places: Tensor, box: Box, shape: tuple[int, ...], std: float, dtype: torch.dtype
    ) -> Tensor:
        """Noise at some places of the table along the read dimension, in the box's range of the others."""
        table = len(self._ranked.written)
        if self.dim == len(shape) - 1 and self.dim > 0:
            whole = (*box[:-1], (0, table))
            return normal_box(self.seed, self.name, (*shape[:-1], table), whole, std=std, dtype=dtype)
        sizes = [table if dim == self.dim else size for dim, size in enumerate(shape)]
        ranges = [np.arange(start, stop) for start, stop in box]
        ranges[self.dim] = places.numpy()
        *leading, (first, last) = box if len(box) > 1 else (*box, (0, 1))
        rows = np.zeros(1, np.int64)
        for size, some in zip(sizes, ranges[: len(leading)], strict=False):
            rows = (rows[:, None] * size + some).reshape(-1)
        drawn = normal(self.seed, self.name, rows, first, last, std=std, dtype=dtype)
        return drawn.view([len(some) for some in ranges])


@dataclass(frozen=True, eq=False)
class Ranked:
    """Units that are copied more than once, those with most copies first, and a table of their copies: all first ones in this
    order, then all second ones, ..."""

    units: Tensor  # int64 (outputs,): the place of the unit that an output copies in this order; -1 where it has no other copy
    gather: Select
    """From the table to the outputs."""
    sizes: tuple[int, ...]
    """How many units have a first copy, a second one, ..."""
    starts: tuple[int, ...]
    """Where those begin in the table."""
    written: Tensor  # float64 (table,): the weight of each copy in F
    read: Tensor  # float64 (table,): and in G

    @classmethod
    def of(cls, forward: Select, backward: Select) -> Ranked:
        """Those of two maps; readers read what is written, or nothing."""
        both = backward.covered() & forward.covered()
        assert torch.equal(forward.index[both], backward.index[both]), (
            "a reader reads another unit than is written"
        )
        index = torch.where(forward.covered() & (forward.index >= 0), forward.index, EMPTY)
        numbers = Select(index, forward.weight, forward.units).copy_numbers
        copies = torch.bincount(index[index >= 0], minlength=forward.units)
        order = copies.argsort(descending=True, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        several = (index >= 0) & (copies[index.clamp(min=0)] > 1)
        units = torch.where(several, place[index.clamp(min=0)], EMPTY)
        sizes = [int((copies > max(1, number)).sum()) for number in range(max(1, int(copies.max())))]
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        table = torch.tensor(starts)[numbers[several]] + units[several]
        weights = []
        for map_ in (forward, backward):
            weight = torch.zeros(sum(sizes), dtype=torch.float64)
            weight[table] = torch.where(map_.covered(), map_.weight, 0.0)[several].double()
            weights.append(weight)
        place = torch.full_like(units, EMPTY)
        place[several] = table
        gather = Select(place, several.to(torch.float64), sum(sizes))
        return cls(units, gather, tuple(sizes), tuple(starts), *weights)


def _at(runs: Sequence[Run], place: int) -> Run:
    return next(run for run in runs if run.start <= place < run.stop)


def _whole(shape: tuple[int, ...]) -> Blocks:
    return Blocks(tuple((Run(0, size, 0, 1.0),) for size in shape))


def _absolute(std: float, of: str | None, statistic: Statistic) -> float:
    return std if of is None else std * statistic(of, "rms")


def _columns(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count
