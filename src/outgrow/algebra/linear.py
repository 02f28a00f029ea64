"""Linear maps of one axis, small enough to stream through.

A map takes an axis of `inputs` units to one of `outputs` units: `y = M x`. Nearly every growth operator moves whole
units, so nearly every map is a gather and a multiply:

    y[r] = weight[r] * x[index[r]]        (Select; index EMPTY gives 0, MEAN gives the mean of all inputs)

Such maps cost no more than a copy, can be asked for a few output rows at a time, and combine into maps of their kind
(`products`). Only learned maps are `Dense`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EMPTY = -1
"""Select index of an output unit that reads nothing."""
MEAN = -2
"""Select index of an output unit that holds the mean of all inputs."""


class LinearMap(ABC):
    """A map from `inputs` to `outputs` units, applied along one dimension of a tensor. Final: Identity, Select, Dense."""

    @property
    @abstractmethod
    def inputs(self) -> int:
        """Number of units read."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of units written."""

    @abstractmethod
    def apply(self, x: Tensor, dim: int) -> Tensor:
        """Map dimension `dim` of `x` from `inputs` to `outputs` units."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> LinearMap:
        """The same map, only output units `start` to `stop`."""

    @abstractmethod
    def square(self) -> LinearMap:
        """Every coefficient squared: the map of second moments."""

    @abstractmethod
    def sources(self) -> tuple[slice | Tensor, LinearMap]:
        """The input units that are read, and the same map on those units alone."""

    @abstractmethod
    def covered(self) -> Tensor:
        """bool (outputs,): which output units read anything."""

    @abstractmethod
    def transposed(self, y: Tensor, dim: int) -> Tensor:
        """Mᵀ y along one dimension: back from `outputs` to `inputs` units."""

    @abstractmethod
    def scaled(self, factor: float) -> LinearMap:
        """The map times a number."""

    @property
    @abstractmethod
    def gather(self) -> Select | None:
        """The same map where every output reads one input, the mean or nothing; None where it mixes units (learned maps)."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Floating-point operations of mapping one column."""

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return False

    @property
    def one_hot(self) -> Select | None:
        """The same map where every output reads one input or nothing; None for any other."""
        return None if self.gather is None or self.gather.averages else self.gather

    def as_gather(self) -> Select:
        """The gather, where the caller knows that there is one."""
        assert self.gather is not None, "units are mixed here, not copied"
        return self.gather

    def matrix(self) -> Tensor:
        """The coefficients as a float64 matrix (outputs, inputs): for tests, printing and small axes."""
        return self.apply(torch.eye(self.inputs, dtype=torch.float64), 0)


@dataclass(frozen=True)
class Identity(LinearMap):
    """Nothing changes.

    >>> Identity(3).matrix().diagonal().tolist()
    [1.0, 1.0, 1.0]
    """

    size: int

    @property
    def inputs(self) -> int:
        return self.size

    @property
    def outputs(self) -> int:
        return self.size

    def apply(self, x: Tensor, dim: int) -> Tensor:
        return x

    def rows(self, start: int, stop: int) -> LinearMap:
        if (start, stop) == (0, self.size):
            return self
        return Select(torch.arange(start, stop), torch.ones(stop - start, dtype=torch.float64), self.size)

    def square(self) -> LinearMap:
        return self

    def sources(self) -> tuple[slice | Tensor, LinearMap]:
        return slice(0, self.size), self

    def covered(self) -> Tensor:
        return torch.ones(self.size, dtype=torch.bool)

    def transposed(self, y: Tensor, dim: int) -> Tensor:
        return y

    def scaled(self, factor: float) -> LinearMap:
        return self if factor == 1.0 else self.gather.scaled(factor)

    @cached_property
    def gather(self) -> Select:
        return Select(torch.arange(self.size), torch.ones(self.size, dtype=torch.float64), self.size)

    @property
    def flops(self) -> int:
        return 0

    @property
    def is_identity(self) -> bool:
        return True


@dataclass(frozen=True)
class Run:
    """Neighbouring output units that copy neighbouring input units alike."""

    start: int
    stop: int
    source: int
    """The input unit of the first; EMPTY or MEAN."""
    weight: float

    def behind(self, place: int) -> int:
        """The input unit of the output unit `place`."""
        return self.source + place - self.start if self.source >= 0 else self.source

    def cut(self, start: int, stop: int) -> Run:
        """A part of it."""
        return Run(start, stop, self.behind(start), self.weight)


@dataclass(frozen=True)
class Gathered:
    """Neighbouring output units that copy input units in any order, each with its own weight."""

    start: int
    stop: int
    map: Select
    """Of these output units alone."""

    weight = 1.0
    """What all of them have in common."""

    def cut(self, start: int, stop: int) -> Gathered:
        """A part of it."""
        return Gathered(start, stop, self.map.part(start - self.start, stop - self.start))


_FEW_RUNS, _LONG_RUN = 16, 16
"""A gather is a few block copies where it has few runs, or they are long on the mean."""


@dataclass(frozen=True, eq=False)
class Select(LinearMap):
    """One-hot rows: output r is `weight[r]` times input `index[r]`.

    >>> Select(torch.tensor([0, 1, 0, EMPTY]), torch.tensor([1.0, 1.0, 0.5, 0.0]), 2).apply(torch.tensor([4.0, 6.0]), 0).tolist()
    [4.0, 6.0, 2.0, 0.0]
    """

    index: Tensor  # int64 (outputs,): an input unit, EMPTY or MEAN
    weight: Tensor  # float64 (outputs,)
    units: int  # number of inputs

    def __post_init__(self) -> None:
        assert self.index.dtype == torch.int64
        assert self.weight.is_floating_point()
        assert self.index.shape == self.weight.shape
        assert not self.outputs or int(self.index.max()) < self.units

    @property
    def inputs(self) -> int:
        return self.units

    @property
    def outputs(self) -> int:
        return self.index.numel()  # a tenth of the time of `len`

    def covered(self) -> Tensor:
        return (self.index != EMPTY) & (self.weight != 0)

    @property
    def gather(self) -> Select:
        return self

    @property
    def flops(self) -> int:
        copied = self.weight[self.index >= 0]
        return (self.outputs if bool((copied != 1).any()) else 0) + (self.units if self.averages else 0)

    @cached_property
    def copy_numbers(self) -> Tensor:
        """int64 (outputs,): how many rows before this one copy the same unit; -1 where a row copies none.

        >>> Select(torch.tensor([0, 1, 0, EMPTY, 0]), torch.ones(5), 2).copy_numbers.tolist()
        [0, 0, 1, -1, 2]
        """
        order = self.index.argsort(stable=True)
        ordered = self.index[order]
        places = torch.arange(self.outputs)
        starts = torch.ones_like(places, dtype=torch.bool)
        starts[1:] = ordered[1:] != ordered[:-1]
        first = torch.where(starts, places, 0).cummax(0).values
        numbers = torch.empty_like(places)
        numbers[order] = places - first
        return torch.where(self.index >= 0, numbers, -1)

    def only(self, kept: Tensor) -> Select:
        """The same map on the rows that a bool (outputs,) keeps; the others read nothing."""
        return Select(torch.where(kept, self.index, EMPTY), torch.where(kept, self.weight, 0.0), self.units)

    def scaled(self, factor: float) -> LinearMap:
        return self if factor == 1.0 else Select(self.index, self.weight * factor, self.units)

    def transposed(self, y: Tensor, dim: int) -> Tensor:
        shape = [1] * y.dim()
        shape[dim] = self.outputs
        weighted = y * self.weight.to(y.device, y.dtype).view(shape)
        covered = self.covered()
        keep = (covered & (self.index >= 0)).nonzero().flatten()
        size = list(y.shape)
        size[dim] = self.inputs
        out = torch.zeros(size, device=y.device, dtype=y.dtype)
        out.index_add_(dim, self.index[keep].to(y.device), weighted.index_select(dim, keep.to(y.device)))
        mean = (covered & (self.index == MEAN)).nonzero().flatten()
        if len(mean):
            out += weighted.index_select(dim, mean.to(y.device)).sum(dim, keepdim=True) / self.inputs
        return out

    @cached_property
    def runs(self) -> tuple[Run, ...] | None:
        """The map as blocks that are copied, in order; None where there are many short ones.

        >>> [(run.start, run.stop, run.source) for run in Select(torch.tensor([0, 1, 0, 1, EMPTY]), torch.ones(5), 2).runs]
        [(0, 2, 0), (2, 4, 0), (4, 5, -1)]
        """
        if not self.outputs:
            return ()
        index, weight = self._effective
        breaks = (~(_follows(index) & (weight[1:] == weight[:-1]))).nonzero().flatten() + 1
        if len(breaks) >= max(_FEW_RUNS, self.outputs // _LONG_RUN):
            return None
        starts = [0, *breaks.tolist()]
        stops = [*starts[1:], self.outputs]
        places = torch.tensor(starts)
        return tuple(map(Run, starts, stops, index[places].tolist(), weight[places].tolist()))

    @property
    def _effective(self) -> tuple[Tensor, Tensor]:
        """Index and weight; what a weight of 0 reads is nothing."""
        covered = self.covered()
        return torch.where(covered, self.index, EMPTY), torch.where(covered, self.weight, 0.0)

    @cached_property
    def stretches(self) -> tuple[Run | Gathered, ...]:
        """The map as few pieces in order: its runs, where there are many the long ones alone, and what lies between gathered.

        >>> units = torch.tensor([*range(40), *[5, 3] * 20])
        >>> [type(one).__name__ for one in Select(units, torch.ones(80), 40).stretches]
        ['Run', 'Gathered']
        """
        if self.runs is not None:
            return self.runs
        index, weight = self._effective
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), (~_follows(index)).nonzero().flatten() + 1])
        stops = torch.cat([starts[1:], torch.tensor([self.outputs])])
        kept = (stops - starts >= _LONG_RUN) | (index[starts] == MEAN)
        found: list[Run | Gathered] = []
        begun = 0
        for start, stop in [
            *zip(starts[kept].tolist(), stops[kept].tolist(), strict=True),
            (self.outputs,) * 2,
        ]:
            if begun < start:
                found.append(Gathered(begun, start, self.part(begun, start)))
            if start < stop and bool((weight[start:stop] == weight[start]).all()):
                found.append(Run(start, stop, int(index[start]), float(weight[start])))
            elif start < stop:
                found.append(Gathered(start, stop, self.part(start, stop)))
            begun = stop
        return tuple(found)

    @cached_property
    def _scales(self) -> bool:
        return bool(((self.weight != 1) | (self.index < 0)).any())

    @cached_property
    def averages(self) -> bool:
        """Whether any output holds the mean of all inputs."""
        return bool((self.index == MEAN).any())

    @cached_property
    def _contiguous(self) -> int | None:
        """Start of the run of inputs, where the index is one."""
        if not self.outputs or int(self.index[0]) < 0:
            return None
        start = int(self.index[0])
        return start if torch.equal(self.index, torch.arange(start, start + self.outputs)) else None

    def apply(self, x: Tensor, dim: int) -> Tensor:
        assert x.shape[dim] == self.units, (x.shape, dim, self.units)
        if not self.units:  # a block of rows that all read nothing: `sources` asked for no input
            return x.new_zeros(*x.shape[:dim], self.outputs, *x.shape[dim + 1 :])
        if self._contiguous is not None:
            y = x.narrow(dim, self._contiguous, self.outputs)
        else:
            y = x.index_select(dim, self._places.to(x.device))
        if not self._scales:
            return y
        shape = [1] * x.dim()
        shape[dim] = self.outputs
        weight = self.weight.to(x.device, x.dtype).view(shape)
        if self.averages:
            mean = (self.index == MEAN).to(x.device).view(shape)
            y = torch.where(mean, mean_along(x, dim), y)
        y = y.mul_(weight) if self._gathered else y * weight
        # Not 0 * x: that is -0.0 or NaN by what the first unit holds, and which one is first depends on the rows read.
        return y.index_fill_(dim, self._silent.to(x.device), 0.0) if self._silent.numel() else y

    @cached_property
    def _places(self) -> Tensor:
        """The inputs that are gathered, and any one for an output that copies none; int32 is faster than int64."""
        return self.index.clamp(min=0).to(torch.int32)

    @cached_property
    def _silent(self) -> Tensor:
        """The outputs that copy nothing."""
        return (~self.covered()).nonzero().flatten()

    @cached_property
    def _gathered(self) -> bool:
        """Whether apply's intermediate is a fresh tensor that may be overwritten."""
        return self._contiguous is None

    def rows(self, start: int, stop: int) -> LinearMap:
        return self.part(start, stop)

    def part(self, start: int, stop: int) -> Select:
        """The same map, only output units `start` to `stop`."""
        if (start, stop) == (0, self.outputs):
            return self
        return Select(self.index[start:stop], self.weight[start:stop], self.units)

    def square(self) -> LinearMap:
        # A mean row has `units` coefficients w / units; squared they sum to w^2 / units, again a multiple of the mean.
        weight = self.weight.square()
        return Select(self.index, torch.where(self.index == MEAN, weight / self.units, weight), self.units)

    def sources(self) -> tuple[slice | Tensor, LinearMap]:
        if self.averages or not self.outputs:
            return slice(0, self.units), self
        used, compact = torch.unique(self.index, return_inverse=True)
        if int(used[0]) == EMPTY:
            used, compact = used[1:], compact - 1  # the lowest of all: EMPTY again
        if not used.numel():
            return slice(0, 0), Select(self.index, self.weight, 0)
        first, last = int(used[0]), int(used[-1])
        rows: slice | Tensor = slice(first, last + 1) if last - first + 1 == used.numel() else used
        return rows, Select(compact, self.weight, used.numel())


@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """Any matrix (outputs, inputs): learned operators, and what does not fit a gather.

    >>> Dense(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).apply(torch.tensor([2.0, 4.0]), 0).tolist()
    [2.0, 3.0]
    """

    values: Tensor

    @property
    def inputs(self) -> int:
        return self.values.shape[1]

    @property
    def outputs(self) -> int:
        return self.values.shape[0]

    def apply(self, x: Tensor, dim: int) -> Tensor:
        # A copy in memory of its own: products round by how their factors lie there, and bits must not depend on a file.
        values = self.values.to(x.device, x.dtype, copy=True, memory_format=torch.contiguous_format)
        return _multiplied(values, x, dim)

    def rows(self, start: int, stop: int) -> LinearMap:
        return Dense(self.values[start:stop])

    def square(self) -> LinearMap:
        return Dense(self.values.square())

    def sources(self) -> tuple[slice | Tensor, LinearMap]:
        return slice(0, self.inputs), self

    def covered(self) -> Tensor:
        return (self.values != 0).any(dim=1)

    def transposed(self, y: Tensor, dim: int) -> Tensor:
        return _multiplied(self.values.T.to(y.device, y.dtype), y, dim)

    def scaled(self, factor: float) -> LinearMap:
        return self if factor == 1.0 else Dense(self.values * factor)

    @property
    def gather(self) -> None:
        return None

    @property
    def flops(self) -> int:
        return 2 * self.inputs * self.outputs


def mean_along(x: Tensor, dim: int) -> Tensor:
    """The mean over one dimension, which stays with one unit: halves are added until one is left.

    Sums of torch round by layout and by the number of threads; these additions do not, so any block has the same bits.

    >>> mean_along(torch.tensor([[1.0, 2.0, 6.0]]), 1).tolist()
    [[3.0]]
    """
    units, total = x.shape[dim], x
    while total.shape[dim] > 1:
        half = total.shape[dim] // 2
        added = total.narrow(dim, 0, half) + total.narrow(dim, half, half)
        rest = total.narrow(dim, 2 * half, total.shape[dim] - 2 * half)
        total = torch.cat([added, rest], dim) if rest.shape[dim] else added
    return total / units


def _follows(index: Tensor) -> Tensor:
    """bool (outputs - 1,): whether an output reads the unit behind that of the output before it, or both none or the mean."""
    before, after = index[:-1], index[1:]
    return torch.where(after >= 0, (before >= 0) & (before + 1 == after), before == after)


def _multiplied(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """The matrix times one dimension of x."""
    product: Tensor = torch.tensordot(matrix, x, dims=([1], [dim]))
    return product.movedim(0, dim)
