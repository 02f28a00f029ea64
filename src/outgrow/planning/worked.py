"""A plan worked out: schedules of one, two ... stages, the one to take, its saving with an interval, and the rules beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from outgrow.errors import ConfigError
from outgrow.planning.config import CurveConfig, PlanConfig
from outgrow.planning.growable import check_operators, refusal
from outgrow.planning.laws import Array, Interval
from outgrow.planning.laws.prediction import quantiles
from outgrow.planning.pilots import measured_operators
from outgrow.planning.plan_law import SizeLaw, planned_law
from outgrow.planning.rule_rows import RuleRow, rule_rows
from outgrow.planning.sizes import Candidate, growths, planned_candidates
from outgrow.planning.stages import (
    LOSS_PRESERVING,
    Problem,
    Size,
    StagePath,
    best_for_flops,
    best_for_loss,
    replay_path,
    sensitivity,
)
from outgrow.planning.stages.measured import MeasuredOperator
from outgrow.planning.stages.paths import operators_along, stage_flops


@dataclass(frozen=True)
class WorkedPlan:
    """All that a plan came to. `baselines[k]` is one stage to the final loss of `paths[k]`."""

    plan: PlanConfig
    candidates: tuple[Candidate, ...]
    law: SizeLaw
    problem: Problem
    paths: tuple[StagePath, ...]
    baselines: tuple[StagePath, ...]
    savings: tuple[Interval | None, ...]
    """With a fitted law: intervals from its draws, the switches staying where the plan puts them."""
    chosen: int
    rules: tuple[RuleRow, ...]
    refused: tuple[str, ...]
    """Growths that the operators cannot do, and why; the plan goes without them."""
    measured: Mapping[str, MeasuredOperator]
    """By kind of growth: operators whose cost was read off runs. `problem.operators` has what is planned with."""

    @property
    def path(self) -> StagePath:
        """The schedule to take."""
        return self.paths[self.chosen]

    @property
    def baseline(self) -> StagePath:
        """One stage to the same loss."""
        return self.baselines[self.chosen]

    def saving(self, place: int) -> float:
        """Share of the baseline's compute that a schedule saves."""
        return self.paths[place].saving(self.baselines[place])

    def batches(self, path: StagePath) -> tuple[float, ...]:
        """Tokens per step of each stage, where the law gives each its own; else 1, the unit of the curves."""
        return tuple(self.problem.batch(np.array(path.losses)).tolist())

    def batch_saving(self) -> float:
        """Share of the baseline's compute that the batches of the schedule save without any growth.

        The baseline's size from scratch changes its batch at the losses at which the schedule changes its own.
        """
        size, losses = self.baseline.sizes[0], np.array(self.path.losses)
        starts = np.array([np.inf, *self.path.losses[:-1]])
        return 1 - float(stage_flops(self.problem, size, LOSS_PRESERVING, starts, losses).sum()) / (
            self.baseline.total_flops
        )

    def sensitivity(self) -> tuple[tuple[Array, Array], ...]:
        """For each switch of the schedule: (factors on its tokens, compute / best compute)."""
        return tuple(
            sensitivity(self.problem, self.path, switch) for switch in range(len(self.path.sizes) - 1)
        )


def work_out(plan: PlanConfig, extra_curves: Sequence[CurveConfig] = ()) -> WorkedPlan:
    """Work a plan out. Raises `OutgrowError` for targets and budgets that cannot be, and curves that say nothing."""
    check_operators(plan)
    sizes = planned_candidates(plan)
    law = planned_law(plan, extra_curves, plan.target.loss)
    measured = measured_operators(plan, law)
    operators, table = growths(plan, sizes, measured)
    names = [one.name for one in sizes]
    last = range(len(sizes)) if plan.target.size is None else [names.index(plan.target.size)]
    problem = Problem(
        sizes=tuple(_size(one, law) for one in sizes),
        operators=operators,
        operator_of=table,
        last=tuple(last),
        batch_tokens=None if law.batch is None else law.batch.tokens,
    )
    problem, paths, refused = _best_possible(plan, sizes, problem)
    baselines = tuple(best_for_loss(problem, path.losses[-1], 1)[0] for path in paths)
    _check_growths(plan, problem, refused)
    _check_batches(law, paths)
    chosen = _worth(problem, paths, baselines, plan.worth)
    return WorkedPlan(
        plan=plan,
        candidates=sizes,
        law=law,
        problem=problem,
        paths=paths,
        baselines=baselines,
        savings=tuple(
            _saving_interval(problem, law, path, base, needed=place == chosen)
            for place, (path, base) in enumerate(zip(paths, baselines, strict=True))
        ),
        chosen=chosen,
        rules=rule_rows(problem, paths, baselines[chosen], plan.mixing_tokens),
        refused=refused,
        measured=measured,
    )


def _check_growths(plan: PlanConfig, problem: Problem, refused: Sequence[str]) -> None:
    """An error where stages are asked for and not one growth between the candidates can be done."""
    count = len(problem.sizes)
    left = any(problem.operator_of[i, j] >= 0 for i in range(count) for j in range(i + 1, count))
    if plan.stages > 1 and refused and not left:
        raise ConfigError(
            "the operators refuse every growth between the candidates, so there is nothing to plan",
            got="; ".join(refused[:3]),
            fix="choose candidates whose sizes fit the operators, or other operators",
        )


def _size(one: Candidate, law: SizeLaw) -> Size:
    return Size(one.name, one.parameters, one.flops_per_token, law.best(one.parameters))


def _best_possible(
    plan: PlanConfig, sizes: Sequence[Candidate], problem: Problem
) -> tuple[Problem, tuple[StagePath, ...], tuple[str, ...]]:
    """The best schedules whose growths the operators can do: a growth that is refused is taken out, and all planned again."""
    refused: list[str] = []
    tried: set[tuple[int, int]] = set()
    while True:
        paths = _best(plan, problem)
        pairs = {pair for path in paths for pair in zip(path.sizes, path.sizes[1:], strict=False)} - tried
        table: NDArray[np.int64] = problem.operator_of.copy()
        found = False
        for i, j in sorted(pairs):
            tried.add((i, j))
            why = refusal(plan, sizes[i], sizes[j])
            if why is not None:
                refused.append(f"{sizes[i].name} → {sizes[j].name}: {why}")
                table[i, j], found = -1, True
        if not found:
            return problem, paths, tuple(refused)
        problem = replace(problem, operator_of=table)


def _best(plan: PlanConfig, problem: Problem) -> tuple[StagePath, ...]:
    if plan.target.flops is not None:
        return best_for_flops(problem, plan.target.flops, plan.stages)
    return best_for_loss(problem, target_loss(plan, problem), plan.stages)


def target_loss(plan: PlanConfig, problem: Problem) -> float:
    """The final loss that is asked for, in nats per token."""
    if plan.target.loss is not None:
        return plan.target.loss
    assert plan.target.tokens is not None
    return float(problem.end_loss(problem.last[0], 0, plan.target.tokens))


def _check_batches(law: SizeLaw, paths: Sequence[StagePath]) -> None:
    """An error where the critical batch of a stage is less than one token."""
    if law.batch is None:
        return
    smallest = min(float(law.batch.tokens(max(path.losses))) for path in paths)
    if smallest < 1:
        raise ConfigError(
            "the critical batch of a stage is less than one token",
            got=f"{smallest:.3g} tokens, by {law.batch.words()}",
            fix="look at law.critical_batch",
        )


def _worth(problem: Problem, paths: Sequence[StagePath], baselines: Sequence[StagePath], least: float) -> int:
    """The number of stages after which one more no longer saves `least` of the baseline's compute."""
    chosen = 0
    for place in range(1, len(paths)):
        if min(_learning_tokens(problem, paths[place])) < 1:
            continue  # a stage that learns nothing: the law puts a switch at its very edge, and says nothing of it
        if paths[place].saving(baselines[place]) - paths[chosen].saving(baselines[chosen]) >= least:
            chosen = place
    return chosen


def _learning_tokens(problem: Problem, path: StagePath) -> list[float]:
    """Of each stage, without those that its growth loses."""
    operators = operators_along(problem, path.sizes)
    assert operators is not None, "sizes that cannot be grown into each other"
    lost = [0.0, *(max(0.0, one.lost_tokens) for one in operators)]
    return [tokens - gone for tokens, gone in zip(path.tokens, lost, strict=True)]


def _saving_interval(
    problem: Problem, law: SizeLaw, path: StagePath, baseline: StagePath, *, needed: bool
) -> Interval | None:
    """The saving under every draw of the law: early stages as planned, the last one until the loss is reached.

    Where the draws do not determine it, the schedule to take is an error; others have none.
    """
    if not law.draws:
        return None
    savings = []
    for draw in law.draws:
        other = replace(
            problem, sizes=tuple(replace(size, curve=draw(size.parameters)) for size in problem.sizes)
        )
        staged = replay_path(other, path.sizes, path.tokens[:-1], path.losses[-1]).total_flops
        whole = replay_path(other, baseline.sizes, (), path.losses[-1]).total_flops
        if np.isfinite(staged) or np.isfinite(whole):
            savings.append(1 - staged / whole if np.isfinite(whole) else 1.0)
    if len(savings) < 0.5 * len(law.draws):
        if not needed:
            return None
        raise ConfigError(
            "in more than half of the law's bootstrap draws the final size never has the target loss",
            got=f"{path.losses[-1]:.4g} with {problem.sizes[path.sizes[-1]].name}",
            fix="raise the target, take a larger final size, or add curves",
        )
    found = quantiles(np.array(savings), path.saving(baseline), 0.9)
    if not np.isfinite([found.low, found.high]).all():
        if not needed:
            return None
        raise ConfigError(
            "the curves do not determine this plan: in more than one of twenty of the law's bootstrap draws "
            "the staged run never has the target loss",
            got=f"{path.losses[-1]:.4g} with {problem.sizes[path.sizes[-1]].name}",
            fix="add curves or longer ones, raise the target, or plan with fewer stages",
        )
    return found
