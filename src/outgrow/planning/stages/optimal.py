"""The best schedule: dynamic programming over a grid of losses, then switch points refined between the grid's lines.

    V_1[j, b] = FLOPs of size j from scratch to loss b
    V_k[j, b] = min over i, a of  V_(k-1)[i, a] + FLOPs of size j from loss a (plus the operator's gap) to b

The grid chooses the sizes; its error in the switch points is of second order, and `_refine` takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from outgrow.errors import ConfigError
from outgrow.planning.laws import Array
from outgrow.planning.stages.paths import StagePath, operators_along, path_from_losses, stage_flops
from outgrow.planning.stages.problem import Problem

_LINES = 160


def best_for_loss(problem: Problem, target_loss: float, stages: int) -> tuple[StagePath, ...]:
    """The cheapest schedules of 1, 2 ... `stages` stages that end at this loss; fewer where sizes cannot be grown so often.

    Raises `ConfigError` where no final size ever has this loss.
    """
    target = np.asarray([target_loss])
    cost = problem.flops_per_unit * problem.units(target)[:, 0] * problem.batch(target)[0]
    last = np.array(problem.last)
    if not np.isfinite(cost[last]).any():
        lowest = min(problem.sizes[i].curve.floor_loss for i in problem.last)
        raise ConfigError(
            "no candidate reaches the target loss, however long it trains",
            got=f"{target_loss:.4g}",
            expected=f"more than {lowest:.4g}, the floor of the best final size",
            fix="raise the target, or add larger candidates",
        )
    table = _Table(problem, _grid(problem, target_loss, float(cost[last].min())), stages)
    paths = []
    for k in range(stages):
        sizes_losses = table.trace(k, len(table.grid) - 1)
        if sizes_losses is not None:
            paths.append(_improve(problem, *sizes_losses))
    return tuple(paths)


def best_for_flops(problem: Problem, flops: float, stages: int) -> tuple[StagePath, ...]:
    """The schedules of 1, 2 ... `stages` stages that reach the lowest loss with so much compute.

    Raises `ConfigError` where the budget gives the smallest size less than one token per parameter.
    """
    smallest = problem.sizes[0]
    if flops < smallest.flops_per_token * smallest.parameters:
        raise ConfigError(
            "the budget is below the smallest candidate's",
            got=f"{flops:.3g} FLOPs: {flops / smallest.flops_per_token:.3g} tokens for {smallest.name}",
            expected=f"at least one token per parameter, {smallest.flops_per_token * smallest.parameters:.3g} FLOPs",
            fix="raise the budget, or add smaller candidates",
        )
    # A schedule of many stages saves less than three quarters: the loss of four times the budget is out of reach.
    bottom = min(
        float(problem.end_loss(i, 0, 4 * flops / problem.sizes[i].flops_per_token)) for i in problem.last
    )
    table = _Table(problem, _grid(problem, bottom, flops), stages)
    paths = []
    for k in range(stages):
        line = table.lowest_within(k, flops)
        sizes_losses = None if line is None else table.trace(k, line)
        if sizes_losses is not None:
            paths.append(_spend(problem, *sizes_losses, flops))
    return tuple(paths)


def _grid(problem: Problem, bottom: float, flops: float) -> Array:
    """Losses from what a ten-thousandth of the compute buys the smallest size down to the target, even in log excess."""
    floor = min(size.curve.floor_loss for size in problem.sizes)
    smallest = problem.sizes[0]
    units = 1e-4 * flops / smallest.flops_per_token / float(problem.batch(np.asarray([bottom]))[0])
    top = max(float(smallest.curve.loss(units)), bottom + 0.5 * (bottom - floor))
    return np.asarray(floor + np.geomspace(top - floor, bottom - floor, _LINES))


@dataclass(frozen=True)
class _From:
    """Where the best way to (size, line) came from, for one number of stages."""

    size: NDArray[np.int64]
    line: NDArray[np.int64]


class _Table:
    """V[k][size, line] and the way back."""

    def __init__(self, problem: Problem, grid: Array, stages: int) -> None:
        self.problem, self.grid = problem, grid
        self._units = problem.units(grid)
        self._batch = problem.batch(grid)
        self._starts = [problem.units(grid + operator.loss_gap) for operator in problem.operators]
        with np.errstate(invalid="ignore"):
            first = problem.flops_per_unit[:, None] * self._batch * self._units
        self.values = [first]
        self.origins: list[_From] = []
        for _ in range(1, stages):
            value, origin = self._stage(self.values[-1])
            self.values.append(value)
            self.origins.append(origin)

    def _stage(self, before: Array) -> tuple[Array, _From]:
        """One stage more: for every size the best of all predecessors and switch lines."""
        problem, count = self.problem, len(self.problem.sizes)
        lines = np.arange(len(self.grid))
        later = lines[:, None] <= lines[None, :]  # [switch line, end line]
        value = np.full(before.shape, np.inf)
        origin = _From(np.zeros(before.shape, dtype=np.int64), np.zeros(before.shape, dtype=np.int64))
        for j in range(count):
            for o, operator in enumerate(problem.operators):
                sources = np.flatnonzero(problem.operator_of[:, j] == o)
                if not len(sources):
                    continue
                rate, start, end = problem.sizes[j].flops_per_token, self._starts[o][j], self._units[j]
                pick = np.argmin(before[sources], axis=0)
                entry = before[sources][pick, lines] + rate * operator.lost_tokens + operator.flops
                possible = later & np.isfinite(end)[None, :] & np.isfinite(start)[:, None]
                with np.errstate(invalid="ignore"):
                    trained = end[None, :] - start[:, None]
                    cost = entry[:, None] + rate * self._batch[None, :] * trained
                cost = np.where(possible & (trained >= 0), cost, np.inf)
                switch = np.argmin(cost, axis=0)
                best = cost[switch, lines]
                better = best < value[j]
                value[j][better] = best[better]
                origin.size[j][better] = sources[pick[switch]][better]
                origin.line[j][better] = switch[better]
        return value, origin

    def lowest_within(self, k: int, flops: float) -> int | None:
        """The lowest loss that k + 1 stages reach with so much compute."""
        reached = np.flatnonzero((self.values[k][list(self.problem.last)] <= flops).any(axis=0))
        return int(reached[-1]) if len(reached) else None

    def trace(self, k: int, line: int) -> tuple[list[int], list[float]] | None:
        """Sizes and end losses of the best way to this line in k + 1 stages."""
        last = list(self.problem.last)
        place = int(np.argmin(self.values[k][last, line]))
        size = last[place]
        if not np.isfinite(self.values[k][size, line]):
            return None
        sizes, losses = [size], [float(self.grid[line])]
        for origin in reversed(self.origins[:k]):
            size, line = int(origin.size[size, line]), int(origin.line[size, line])
            sizes.append(size)
            losses.append(float(self.grid[line]))
        return sizes[::-1], losses[::-1]


def _improve(problem: Problem, sizes: Sequence[int], losses: Sequence[float]) -> StagePath:
    """Refined switch points, and neighbouring sizes (of one stage, or of all together) tried until none is better."""
    best = _refine(problem, sizes, losses)
    count = len(best.sizes)
    moves = [tuple(int(k == moved) for k in range(count)) for moved in range(count)] + [(1,) * count]
    better = True
    while better:
        better = False
        for move, sign in product(moves, (-1, 1)):
            other = [size + sign * step for size, step in zip(best.sizes, move, strict=True)]
            inside = min(other) >= 0 and max(other) < len(problem.sizes) and other[-1] in problem.last
            if not inside or operators_along(problem, other) is None:
                continue
            trial = _refine(problem, other, best.losses)
            if trial.total_flops < best.total_flops * (1 - 1e-9):
                best, better = trial, True
    return best


def _refine(problem: Problem, sizes: Sequence[int], losses: Sequence[float]) -> StagePath:
    """The switch losses with the least total compute, one after the other until none moves: a scan, then zooms."""
    operators = operators_along(problem, sizes)
    assert operators is not None, "sizes that cannot be grown into each other"
    ends = np.array(losses, dtype=np.float64)
    path = path_from_losses(problem, sizes, losses)
    for _ in range(60):
        for k in range(len(ends) - 1):
            top = ends[k - 1] if k else _highest(problem, sizes, ends)
            ends[k] = _best_switch(problem, sizes, ends, k, float(top))
        before, path = path, path_from_losses(problem, sizes, [float(end) for end in ends])
        if before.total_flops - path.total_flops <= 1e-8 * path.total_flops:
            break
    return path


def _highest(problem: Problem, sizes: Sequence[int], ends: Array) -> float:
    """A loss above any first switch worth a thought: the first size after a millionth of what it may train."""
    curve = problem.sizes[sizes[0]].curve
    units = float(curve.tokens(max(ends[0], curve.floor_loss * (1 + 1e-9) + 1e-9)))
    return float(curve.loss(1e-4 * units))


def _best_switch(problem: Problem, sizes: Sequence[int], ends: Array, k: int, top: float) -> float:
    operators = operators_along(problem, sizes)
    assert operators is not None
    floor = min(size.curve.floor_loss for size in problem.sizes)
    low, high = float(ends[k + 1]), max(top, float(ends[k]))
    best = float(ends[k])
    for zoom in range(7):
        trial = np.append(floor + np.geomspace(high - floor, low - floor, 49), best)
        start = np.full_like(trial, ends[k - 1]) if k else np.full_like(trial, np.inf)
        cost = stage_flops(problem, sizes[k], operators[k - 1] if k else None, start, trial)
        cost = cost + stage_flops(
            problem, sizes[k + 1], operators[k], trial, np.full_like(trial, ends[k + 1])
        )
        best = float(trial[int(np.argmin(cost))])
        step = ((high - floor) / (low - floor)) ** (1 / 48)
        high = min(high, floor + (best - floor) * step**1.5)
        low = max(low, floor + (best - floor) / step**1.5)
        if zoom and high - low < 1e-12 * best:
            break
    return best


def _spend(problem: Problem, sizes: Sequence[int], losses: Sequence[float], flops: float) -> StagePath:
    """The lowest final loss that these stages (or their neighbours) reach with so much compute, by bisection."""
    path = _improve(problem, sizes, losses)
    for _ in range(
        3
    ):  # neighbours are tried at a loss, the loss is found for sizes: two or three rounds agree
        low = max(problem.sizes[path.sizes[-1]].curve.floor_loss, 0.0)
        high = path.losses[-1]
        while _refine(problem, path.sizes, (*path.losses[:-1], high)).total_flops > flops:
            high += 0.05 * (high - low)
        for _ in range(45):
            middle = 0.5 * (low + high)
            ends = [max(loss, middle) for loss in path.losses[:-1]]
            trial = _refine(problem, path.sizes, (*ends, middle))
            if trial.total_flops <= flops:
                high, path = middle, trial
            else:
                low = middle
        improved = _improve(problem, path.sizes, path.losses)
        if improved.sizes == path.sizes:
            break
        path = improved
    return path
