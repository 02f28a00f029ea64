"""What a study would take, without doing it: pieces, tokens, FLOPs, hours, and what is there already.

    hours of a piece = tokens · seconds per token of its model      measured in one short round, or known from timing.json

The plans of the arms come from `check.py`, where every growth was tried without weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from outgrow.comparing.check import Plans
from outgrow.comparing.pieces import Piece, all_pieces, end_branches, flops, with_thresholds
from outgrow.comparing.ran import is_done
from outgrow.comparing.steps import StudySteps
from outgrow.comparing.stopping import seeds_by_arm, stopped_arms
from outgrow.comparing.study import StudyConfig, TimingConfig
from outgrow.comparing.sweeps import best_rate, rates_left, sweep_branches, sweep_trials
from outgrow.comparing.timing import Timed, by_key, known_speeds, time_models
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
    steps = StudySteps(study)
    speeds = _speeds(steps, plans, measure=measure)
    seen: set[str] = set()
    found = []
    rates = {arm: _rate(study, arm) for arm in study.arms}
    for arm, seeds in seeds_by_arm(study, stopped_arms(study, rates)).items():
        wanted = [*sweep_branches(study, arm), *end_branches(study, rates, {arm: seeds})]
        own = [piece for piece in all_pieces(wanted) if piece.key not in seen]
        seen |= {piece.key for piece in own}
        found.append(_arm(steps, arm, own, plans[arm], speeds))
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
    steps: StudySteps,
    arm: str,
    own: Sequence[Piece],
    plans: Sequence[StagePlan],
    speeds: Mapping[str, float],
) -> ArmEstimate:
    study = steps.study
    tokens = {piece.key: piece.tokens for piece in own}
    there = {piece.key for piece in own if is_done(piece, study.pieces_folder)}
    keys = {places: one.key(steps.common) for places, one in _timed(steps, arm, plans).items()}
    known = all(key in speeds for key in keys.values())
    timed = {places: speeds[key] for places, key in keys.items()} if known else {}
    seconds = {piece.key: _seconds(piece, plans[piece.stage], timed) for piece in own} if known else None
    total = sum(stage.tokens or 0 for stage in study.arms[arm].stages) + study.arm_budgets(arm)[-1]
    return ArmEstimate(
        arm=arm,
        pieces=len(own),
        there=len(there),
        tokens=sum(tokens.values()),
        flops=sum(flops(piece, {arm: plans}) for piece in own),
        seconds=None if seconds is None else sum(seconds.values()),
        seconds_left=None
        if seconds is None
        else sum(one for key, one in seconds.items() if key not in there),
        tokens_per_parameter=total / plans[-1].cost.non_embedding,
        refine_tokens=rates_left(study, arm) * _rate_tokens(study, arm),
    )


def _timed(steps: StudySteps, arm: str, plans: Sequence[StagePlan]) -> dict[tuple[int, int], Timed]:
    """(place of a model, place of the stage whose steps it does) -> what is timed: every stage's own, and its teacher."""
    pairs = [(place, place) for place in range(len(plans))]
    pairs += [(place - 1, place) for place, plan in enumerate(plans) if plan.taught_steps]
    return {(model, stage): Timed(plans[model].config, steps.of(arm, stage)) for model, stage in pairs}


def _seconds(
    piece: Piece,
    plan: StagePlan,
    timed: Mapping[tuple[int, int], float],
) -> float:
    """Of a piece: its own steps, and a third of one of the model before it where that one teaches."""
    seconds = piece.tokens * timed[piece.stage, piece.stage]
    if piece.begins and plan.taught_steps:
        taught = min(piece.tokens, plan.taught_steps * (plan.tokens // plan.steps))
        seconds += taught * timed[piece.stage - 1, piece.stage] / 3
    return seconds


def _speeds(steps: StudySteps, plans: Plans, *, measure: bool) -> dict[str, float]:
    study, common = steps.study, steps.common
    some = [one for arm, stages in plans.items() for one in _timed(steps, arm, stages).values()]
    models = by_key(some, common)
    known = known_speeds(Path(study.output) / "timing.json", models, common, study.timing)
    if known is not None:
        return known
    largest = max(plan.cost.parameters for stages in plans.values() for plan in stages)
    if not measure or largest > _LARGEST:
        return {}
    once = TimingConfig(rounds=1, steps=1)
    return {one.model: one.seconds_per_token for one in time_models(models, common, once)}
