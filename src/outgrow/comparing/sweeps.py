"""The sweep of learning rates: the ends that choose an arm's rate, what they came to, and which is best."""

from __future__ import annotations

import math
from collections.abc import Sequence

from outgrow.comparing.pieces import Branch, branches
from outgrow.comparing.ran import diverged, ran
from outgrow.comparing.result import SweepTrial, trial_losses
from outgrow.comparing.study import StudyConfig
from outgrow.errors import TrainingError


def sweep_branches(study: StudyConfig, arm: str) -> tuple[Branch, ...]:
    """The ends of one arm that its learning rate is chosen by."""
    return tuple(
        branch
        for rate in study.tuning.rates
        for seed in study.tuning.seeds
        for branch in branches(study, arm, seed, rate, study.arm_budgets(arm))
        if branch.budget == study.tuning_budget(arm)
    )


def sweep_trials(sweep: Sequence[Branch], folder: str) -> tuple[SweepTrial, ...]:
    """What the ends of a sweep came to; a rate that diverged has no finite loss."""
    return tuple(
        SweepTrial(
            one.arm,
            one.seed,
            one.rate,
            one.budget,
            math.inf if diverged(one.piece, folder) else ran(one.piece, folder).loss,
        )
        for one in sweep
    )


def best_rate(trials: Sequence[SweepTrial], arm: str) -> float:
    """The learning rate of the lowest mean loss. Raises `TrainingError` where every one diverges on some seed."""
    losses = trial_losses(trials, arm)
    best = min(losses, key=lambda rate: losses[rate])
    if losses[best] == math.inf:
        raise TrainingError(
            f"arm '{arm}' diverges at every learning rate of the sweep", fix="lower tuning.rates"
        )
    return best
