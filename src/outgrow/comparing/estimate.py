"""What a study would take, without doing it: pieces, tokens, FLOPs, hours, and what is there already.

    hours of a piece = tokens · seconds per token of its model      measured in one short round, or known from timing.json

The plans of the arms come from `check.py`, where every growth was tried without weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outgrow.comparing.check import Plans
from outgrow.comparing.pieces import Piece, all_pieces, common_run, end_branches, with_thresholds
from outgrow.comparing.ran import is_done
from outgrow.comparing.stopping import seeds_by_arm, stopped_arms
from outgrow.comparing.study import StudyConfig, TimingConfig
from outgrow.comparing.sweeps import best_rate, rates_left, sweep_branches, sweep_trials
from outgrow.comparing.timing import by_key, known_speeds, model_key, time_models
from outgrow.training.stage_plans import StagePlan

_LARGEST = 300_000_000  # parameters of a model whose speed is measured


@dataclass(frozen=True)
class ArmEstimate:
    """One arm; a piece that several arms share counts for the first of them. Seconds are None where no speed is known."""

    arm: str
    pieces: int
    there: int
    tokens: int
    flops: float
    seconds: float | None
    seconds_left: float | None
    tokens_per_parameter: float
    """Of the largest budget, the small stages included; without embeddings."""
    refine_tokens: int
    """What `tuning.refine` may add to `tokens` at most."""


def estimate(study: StudyConfig, plans: Plans, *, measure: bool = True) -> tuple[ArmEstimate, ...]:
    """All that a study needs, the sweep of learning rates included, arm by arm.

    Before the sweep is done nobody knows which rate it will choose, but every choice needs as many pieces. Before the look of
    `early_stop` all arms count with all seeds.
    """
    study = with_thresholds(study, plans)
    speeds = _speeds(study, plans, measure=measure)
    seen: set[str] = set()
    found = []
    rates = {arm: _rate(study, arm) for arm in study.arms}
    for arm, seeds in seeds_by_arm(study, stopped_arms(study, rates)).items():
        wanted = [*sweep_branches(study, arm), *end_branches(study, rates, {arm: seeds})]
        own = [piece for piece in all_pieces(wanted) if piece.key not in seen]
        seen |= {piece.key for piece in own}
        found.append(_arm(study, arm, own, plans[arm], speeds))
    return tuple(found)


def _rate(study: StudyConfig, arm: str) -> float:
    """The rate that the sweep chose, where it is done."""
    sweep = sweep_branches(study, arm)
    if all(is_done(branch.piece, study.pieces_folder) for branch in sweep):
        return best_rate(sweep_trials(sweep, study.pieces_folder), arm)
    return study.tuning.rates[0]


def _rate_tokens(study: StudyConfig, arm: str) -> int:
    """Tokens of one more rate in the sweep of an arm."""
    first = study.tuning.rates[0]
    ends = [branch for branch in sweep_branches(study, arm) if branch.rate == first]
    return sum(piece.tokens for piece in all_pieces(ends))


def _arm(
    study: StudyConfig,
    arm: str,
    own: Sequence[Piece],
    plans: Sequence[StagePlan],
    speeds: Mapping[str, float],
) -> ArmEstimate:
    tokens = {piece.key: piece.tokens for piece in own}
    flops = sum(_flops(piece, plans[piece.stage]) for piece in own)
    there = {piece.key for piece in own if is_done(piece, study.pieces_folder)}
    known = all(model_key(plan.config) in speeds for plan in plans)
    seconds = {piece.key: _seconds(piece, plans, speeds) for piece in own} if known else None
    total = sum(stage.tokens or 0 for stage in study.arms[arm].stages) + study.arm_budgets(arm)[-1]
    return ArmEstimate(
        arm=arm,
        pieces=len(own),
        there=len(there),
        tokens=sum(tokens.values()),
        flops=flops,
        seconds=None if seconds is None else sum(seconds.values()),
        seconds_left=None
        if seconds is None
        else sum(one for key, one in seconds.items() if key not in there),
        tokens_per_parameter=total / plans[-1].cost.non_embedding,
        refine_tokens=rates_left(study, arm) * _rate_tokens(study, arm),
    )


def _flops(piece: Piece, plan: StagePlan) -> float:
    """Of a piece: what a stage does at its begin, its growth and what is frozen then, falls on its first one."""
    steps = piece.tokens // (plan.tokens // plan.steps)
    return plan.probe_flops + plan.flops_after(steps) if piece.begins else steps * plan.plain_flops


def _seconds(piece: Piece, plans: Sequence[StagePlan], speeds: Mapping[str, float]) -> float:
    """Of a piece: its own steps, and a third of one of the model before it where that one teaches."""
    plan = plans[piece.stage]
    seconds = piece.tokens * speeds[model_key(plan.config)]
    if piece.begins and plan.taught_steps:
        taught = min(piece.tokens, plan.taught_steps * (plan.tokens // plan.steps))
        seconds += taught * speeds[model_key(plans[piece.stage - 1].config)] / 3
    return seconds


def _speeds(study: StudyConfig, plans: Plans, *, measure: bool) -> dict[str, float]:
    models = by_key([plan.config for stages in plans.values() for plan in stages])
    known = known_speeds(Path(study.output) / "timing.json", models, common_run(study), study.timing)
    if known is not None:
        return known
    largest = max(plan.cost.parameters for stages in plans.values() for plan in stages)
    if not measure or largest > _LARGEST:
        return {}
    once = TimingConfig(rounds=1, steps=1)
    return {one.model: one.seconds_per_token for one in time_models(models, common_run(study), once)}
