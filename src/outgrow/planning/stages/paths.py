"""One schedule, evaluated: what its stages cost, what it costs when the switch comes early or late, or under another law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from outgrow.planning.laws import Array
from outgrow.planning.stages.problem import OperatorCost, Problem


@dataclass(frozen=True)
class StagePath:
    """Stages in order: places of the sizes, loss at each end, tokens (or steps) and FLOPs of each."""

    sizes: tuple[int, ...]
    losses: tuple[float, ...]
    tokens: tuple[float, ...]
    flops: tuple[float, ...]

    @property
    def total_flops(self) -> float:
        """Compute of all stages together."""
        return float(sum(self.flops))

    @property
    def total_tokens(self) -> float:
        """Tokens of all stages together."""
        return float(sum(self.tokens))

    def saving(self, baseline: StagePath) -> float:
        """1 - compute / baseline's compute."""
        return 1 - self.total_flops / baseline.total_flops


def operators_along(problem: Problem, sizes: Sequence[int]) -> tuple[OperatorCost, ...] | None:
    """The operators between the sizes, or None where one cannot be grown from the one before."""
    places = [int(problem.operator_of[i, j]) for i, j in pairwise(sizes)]
    return None if any(place < 0 for place in places) else tuple(problem.operators[p] for p in places)


def stage_flops(
    problem: Problem, size: int, operator: OperatorCost | None, start: Array, end: Array
) -> Array:
    """FLOPs of a stage from the loss where the stage before ended to its own end; infinite where it cannot be."""
    chosen = problem.sizes[size]
    batch = problem.batch(end)
    units = chosen.curve.tokens(end)
    lost, extra = 0.0, 0.0
    if operator is not None:
        with np.errstate(invalid="ignore"):  # neither loss is ever reached: infinity less infinity
            units = units - chosen.curve.tokens(start + operator.loss_gap)
        lost, extra = operator.lost_tokens, operator.flops
    with np.errstate(invalid="ignore"):
        flops = chosen.flops_per_token * (lost + batch * units) + extra
    return np.asarray(np.where(np.isfinite(units) & (units >= 0), flops, np.inf))


def path_from_losses(problem: Problem, sizes: Sequence[int], losses: Sequence[float]) -> StagePath:
    """The schedule that ends its stages at these losses."""
    operators = operators_along(problem, sizes)
    assert operators is not None, "sizes that cannot be grown into each other"
    tokens, flops = [], []
    for k, (size, end) in enumerate(zip(sizes, losses, strict=True)):
        operator = operators[k - 1] if k else None
        start = losses[k - 1] if k else np.inf
        cost = float(stage_flops(problem, size, operator, np.asarray(start), np.asarray(end)))
        flops.append(cost)
        tokens.append((cost - (operator.flops if operator else 0.0)) / problem.sizes[size].flops_per_token)
    return StagePath(tuple(sizes), tuple(float(loss) for loss in losses), tuple(tokens), tuple(flops))


def replay_path(
    problem: Problem, sizes: Sequence[int], early_tokens: Sequence[float], target_loss: float
) -> StagePath:
    """The schedule whose stages but the last train so many tokens; the last one goes on until the target.

    Under another law than it was made for, this is what a plan comes to: its switches stay where they were put. Where the
    stages before have the target already, the last one has nothing left to learn.
    """
    operators = operators_along(problem, sizes)
    assert operators is not None, "sizes that cannot be grown into each other"
    losses: list[float] = []
    for k, tokens in enumerate(early_tokens):
        start, lost = 0.0, 0.0
        if k:
            operator = operators[k - 1]
            start = float(problem.sizes[sizes[k]].curve.tokens(losses[-1] + operator.loss_gap))
            lost = operator.lost_tokens
        end = float(problem.end_loss(sizes[k], start, tokens - lost)) if np.isfinite(start) else float("nan")
        losses.append(end)
    if losses and losses[-1] + operators[-1].loss_gap <= target_loss:
        done, (size, last) = path_from_losses(problem, sizes[:-1], losses), (sizes[-1], operators[-1])
        flops = problem.sizes[size].flops_per_token * last.lost_tokens + last.flops
        return StagePath(
            tuple(sizes),
            (*done.losses, losses[-1] + last.loss_gap),
            (*done.tokens, last.lost_tokens),
            (*done.flops, flops),
        )
    return path_from_losses(problem, sizes, (*losses, target_loss))


def sensitivity(problem: Problem, path: StagePath, switch: int, points: int = 81) -> tuple[Array, Array]:
    """(factors, compute / best compute): what it costs to end stage `switch` at `factor` times its tokens, 1/8 to 8.

    All other early stages keep their tokens; the last one goes on until the same final loss.
    """
    factors = np.geomspace(1 / 8, 8, points)
    early = np.array(path.tokens[:-1])
    costs = []
    for factor in factors:
        moved = early.copy()
        moved[switch] *= factor
        costs.append(replay_path(problem, path.sizes, [float(t) for t in moved], path.losses[-1]).total_flops)
    return factors, np.array(costs) / path.total_flops


def loss_along(problem: Problem, sizes: Sequence[int], early_tokens: Sequence[float], flops: Array) -> Array:
    """Loss of a schedule at each total of FLOPs; the last stage goes on for ever. The first FLOPs after a growth that are
    lost tokens stand at the loss of the growth."""
    operators = operators_along(problem, sizes)
    assert operators is not None, "sizes that cannot be grown into each other"
    result, spent, entry = np.full(flops.shape, np.nan), 0.0, 0.0
    for k, size in enumerate(sizes):
        chosen = problem.sizes[size]
        lost = 0.0
        if k:
            spent += operators[k - 1].flops
            lost = operators[k - 1].lost_tokens
        here = flops > spent
        tokens = np.maximum((flops[here] - spent) / chosen.flops_per_token - lost, 0.0)
        if k == len(early_tokens):
            result[here] = problem.end_loss(size, entry, tokens)
        else:
            end = problem.end_loss(size, entry, max(early_tokens[k] - lost, 0.0))
            result[here] = chosen.curve.loss(entry + tokens / problem.batch(end))
            spent += early_tokens[k] * chosen.flops_per_token
            entry = float(problem.sizes[sizes[k + 1]].curve.tokens(float(end) + operators[k].loss_gap))
    return result
