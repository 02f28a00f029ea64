"""What a grown tensor holds where no source reaches, or on top of it: fresh numbers and levels.

A fill says in which blocks all its entries lie (then it is written there), or is added to what is there. Random numbers
have the address of their entry (`noise`), so a fill is the same in any box. The noise that no reader sees is in `invisible`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.cells import Blocks, within
from outgrow.algebra.linear import EMPTY, Run, Select
from outgrow.algebra.noise import Box, normal_at, normal_box

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
        std = absolute_std(self.std, self.of, statistic)
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
        whole = drawn.view(stop - start, *shape[1:]) * absolute_std(self.std, self.of, statistic)
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


def _whole(shape: tuple[int, ...]) -> Blocks:
    return Blocks(tuple((Run(0, size, 0, 1.0),) for size in shape))


def absolute_std(std: float, of: str | None, statistic: Statistic) -> float:
    """A standard deviation that is counted in root mean squares of the source tensor `of`, as a number."""
    return std if of is None else std * statistic(of, "rms")


def _columns(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count
