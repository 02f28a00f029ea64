"""Noise that no reader sees: copies of a unit part, and what is read of them together stays.

    N' = N - N F Gᵀ along a read dimension, so N' F = 0 and (W + N') F = W F        (Gᵀ F = I)

F writes a unit's copies, G says how readers share them. Stretches of units that are copied alike are cooked as blocks
(`groups`); units copied in any order lie in a table of their copies (`Ranked`), where G is taken to share as F writes.
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
        """The same for units that are copied in any order, as `Ranked` has it, all copies of those in the box."""
        dim, std = self.dim, absolute_std(self.std, self.of, statistic)
        along_rows = 0 < dim == len(shape) - 1
        ranked = self._ranked if along_rows else self._ranked.of_units(*box[dim])  # rows are drawn alone
        place = ranked.place[slice(*box[dim])] if along_rows else ranked.place
        drawn = self._drawn(ranked, box, shape, std, dtype)
        view = [-1 if one == dim else 1 for one in range(len(shape))]
        sizes = list(ranked.sizes)
        parts = torch.split(drawn, sizes[1:], dim)
        _, *weights = torch.split(ranked.weights.to(dtype).view(view), sizes, dim)
        first, *shares = torch.split(ranked.shares.to(dtype).view(view), sizes, dim)
        seen = parts[0] * weights[0]
        for part, weight in zip(parts[1:], weights[1:], strict=True):
            seen.narrow(dim, 0, part.shape[dim]).addcmul_(part, weight)
        for part, share in zip(parts, shares, strict=True):
            part.addcmul_(seen.narrow(dim, 0, part.shape[dim]), share, value=-1.0)
        nothing = drawn.new_zeros([1 if one == dim else size for one, size in enumerate(drawn.shape)])
        return torch.cat([seen.mul_(-first), drawn, nothing], dim).index_select(dim, place)

    @cached_property
    def _ranked(self) -> Ranked:
        return Ranked.of(self.forward)

    def _drawn(
        self, ranked: Ranked, box: Box, shape: tuple[int, ...], std: float, dtype: torch.dtype
    ) -> Tensor:
        """The numbers of the table along the read dimension, in the box's range of the others."""
        sizes = [len(self._ranked.entries) if dim == self.dim else size for dim, size in enumerate(shape)]
        if 0 < self.dim == len(shape) - 1:
            whole = (*box[:-1], (ranked.sizes[0], len(ranked.entries)))
            return normal_box(self.seed, self.name, tuple(sizes), whole, std=std, dtype=dtype)
        ranges = [np.arange(start, stop) for start, stop in box]
        ranges[self.dim] = ranked.entries[ranked.sizes[0] :].numpy()
        *leading, (first, last) = box if len(box) > 1 else (*box, (0, 1))
        rows = np.zeros(1, np.int64)
        for size, some in zip(sizes, ranges[: len(leading)], strict=False):
            rows = (rows[:, None] * size + some).reshape(-1)
        numbers = normal(self.seed, self.name, rows, first, last, std=std, dtype=dtype)
        return numbers.view([len(some) for some in ranges])


@dataclass(frozen=True, eq=False)
class Ranked:
    """The noise of units that are copied more than once, as a table: all first copies, all second ones, ..., and a zero.

    The units that are copied most stand in front, so that what a reader sees is a sum of leading parts. Of a unit whose
    copies have weights f in F, w = f / |f|, all copies but the first draw a number z:

        n_k = z_k - w_k s / (1 + |w_0|),    n_0 = -sign(w_0) s,    s = Σ_k>0 w_k z_k

    These are the entries of (0, z) after the reflection that takes the first copy's direction to w. So n f = 0, and n has
    the law of N - N F F⁺: that of N - N F Gᵀ where readers share as writers write (G = F (FᵀF)⁻¹).
    """

    entries: Tensor  # int64: which entries of the table these are, in order
    place: Tensor  # int64 (outputs,): where an output's entry stands among them; the zero's where it has no other copy
    sizes: tuple[int, ...]
    """How many units have a first copy, a second one, ..."""
    weights: Tensor  # float64 (entries,): w

    @classmethod
    def of(cls, forward: Select) -> Ranked:
        """The whole table."""
        covered = forward.covered() & (forward.index >= 0)
        index = torch.where(covered, forward.index, EMPTY)
        numbers = Select(index, forward.weight, forward.units).copy_numbers
        copies = torch.bincount(index[covered], minlength=forward.units)
        order = copies.argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order))
        several = covered & (copies[index.clamp(min=0)] > 1)
        sizes = tuple(int((copies > max(1, number)).sum()) for number in range(max(2, int(copies.max()))))
        unit, weight = index[several], forward.weight[several].double()
        lengths = torch.zeros(forward.units, dtype=torch.float64).index_add_(0, unit, weight.square()).sqrt()
        place = torch.full_like(index, sum(sizes))
        place[several] = torch.tensor(_starts(sizes))[numbers[several]] + rank[unit]
        weights = torch.zeros(sum(sizes), dtype=torch.float64)
        weights[place[several]] = weight / lengths[unit]
        return cls(torch.arange(sum(sizes)), place, sizes, weights)

    def of_units(self, begin: int, end: int) -> Ranked:
        """The entries of the units that some outputs copy, and those outputs alone."""
        place = self.place[begin:end]
        units = torch.unique(self._units[place[place < len(self.entries)]])
        sizes = tuple(int((units < size).sum()) for size in self.sizes)
        entries = torch.cat(
            [units[:size] + start for size, start in zip(sizes, _starts(self.sizes), strict=True)]
        )
        return Ranked(entries, torch.searchsorted(entries, place), sizes, self.weights[entries])

    @cached_property
    def shares(self) -> Tensor:
        """float64 (entries,): what is taken away of s."""
        first = self.weights[: self.sizes[0]]
        return torch.cat([first.sign(), (self.weights / (1 + first.abs()[self._units]))[self.sizes[0] :]])

    @cached_property
    def _units(self) -> Tensor:
        """int64 (entries,): whose copy an entry is, as a place among the units with a first copy."""
        return torch.cat([torch.arange(size) for size in self.sizes])


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]


def _at(runs: Sequence[Run], place: int) -> Run:
    return next(run for run in runs if run.start <= place < run.stop)
