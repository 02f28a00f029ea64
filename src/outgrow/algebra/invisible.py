"""Noise that no reader sees: copies of a unit part, and what is read of them together stays.

    N' = N - N F Gᵀ along a read dimension, so N' F = 0 and (W + N') F = W F        (Gᵀ F = I)

F writes a unit's copies, G says how readers share them. Stretches of units that are copied alike are cooked as blocks
(`groups`); units copied in any order lie in a table of their copies (`Ranked`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import hypot, isclose

import numpy as np
import torch
from torch import Tensor

from outgrow.algebra.cells import within
from outgrow.algebra.fills import Fill, Statistic, absolute_std
from outgrow.algebra.linear import EMPTY, Run, Select
from outgrow.algebra.noise import Box, normal, normal_box


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
        std = absolute_std(self.std, self.of, statistic)
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
        noise = self._drawn(places, box, shape, absolute_std(self.std, self.of, statistic), dtype)
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
