"""Where rounding to whole steps makes another study of the one that is written: much longer stages, or another decay.

    a piece ends at multiples of lcm(tokens of its own step, tokens of the study's step)      `steps.py`

A step that is small beside the budgets moves nothing. One of 7 sequences in a study of 8 may double a budget.
"""

from __future__ import annotations

from outgrow.comparing.pieces import branches
from outgrow.comparing.steps import StudySteps
from outgrow.comparing.study import StudyConfig

_LENGTH, _DECAY = 0.1, 0.25
"""As shares of what is asked: what a length, and a decay, may be off without a word."""


def rounded_far(study: StudyConfig) -> list[str]:
    """A sentence for every arm with a stage, or a decay, that comes out far from what the study says."""
    steps = StudySteps(study)
    return [
        f"arm '{arm}': its pieces are whole steps of its own and of the study, so {'; '.join(found)}: "
        "give it a batch that divides the study's, or larger budgets"
        for arm in study.arms
        if (found := [*_stages(steps, arm), *_budgets(study, arm)])
    ]


def _stages(steps: StudySteps, arm: str) -> list[str]:
    found = []
    for place, stage in enumerate(steps.study.arms[arm].stages[:-1]):
        assert stage.tokens is not None, "only the last stage has no tokens"
        tokens = steps.whole(arm, place, stage.tokens)
        if abs(tokens / stage.tokens - 1) > _LENGTH:
            found.append(f"the {stage.tokens:,} tokens of stages[{place}] become {tokens:,}")
    return found


def _budgets(study: StudyConfig, arm: str) -> list[str]:
    found = []
    for branch in branches(study, arm, study.seeds[0], study.tuning.rates[0], study.arm_budgets(arm)):
        tokens = sum(piece.tokens for piece in branch.last_stage)
        decay = branch.piece.tokens / tokens
        if abs(tokens / branch.budget - 1) > _LENGTH or abs(decay / study.decay_share - 1) > _DECAY:
            found.append(
                f"the budget of {branch.budget:,} tokens becomes {tokens:,}, "
                f"{decay:.0%} of them a decay instead of {study.decay_share:.0%}"
            )
    return found
