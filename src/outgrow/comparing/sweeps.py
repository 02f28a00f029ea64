"""The sweep of learning rates: which rates, the ends that choose one, what they came to, and which is best.

With `tuning.refine` a sweep goes on by itself, by the same rule for every arm, from what it has found:

    the best is the last of the rates    one more beyond it, by the factor between the last two
    a neighbour is further than `to`     the geometric mean of the two
    else, or after `most` rates more     done

The rule reads nothing but the losses of finished pieces, so that a study that is started again goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from outgrow.comparing.pieces import Branch, branches
from outgrow.comparing.ran import diverged, is_done, ran
from outgrow.comparing.result import SweepTrial, trial_losses
from outgrow.comparing.study import RefineConfig, StudyConfig
from outgrow.errors import TrainingError


def sweep_branches(study: StudyConfig, arm: str) -> tuple[Branch, ...]:
    """The ends of one arm that its learning rate is chosen by: of the study's rates, and of those that the rule has added so far."""
    found = _ends(study, arm, study.tuning.rates)
    while more := _added(study, arm, found):
        found += _ends(study, arm, more)
    return found


def rates_left(study: StudyConfig, arm: str) -> int:
    """How many rates the rule may still add to those of an arm."""
    refine = study.tuning.refine
    found = sweep_branches(study, arm)
    if refine is None or _is_whole(study, found):
        return 0
    return refine.most - (len({branch.rate for branch in found}) - len(study.tuning.rates))


def next_rates(losses: Mapping[float, float], refine: RefineConfig) -> tuple[float, ...]:
    """The rates that the rule asks for next, to three digits; none where the best is bracketed closely enough.

    >>> rule = RefineConfig(to=1.5, most=9)
    >>> next_rates({1e-3: 3.2, 2e-3: 3.1, 4e-3: 3.0}, rule)
    (0.008,)
    >>> next_rates({1e-3: 3.2, 2e-3: 3.0, 4e-3: 3.1}, rule)
    (0.00141, 0.00283)
    >>> next_rates({1e-3: 3.2, 1.41e-3: 3.1, 2e-3: 3.0, 2.83e-3: 3.05, 4e-3: 3.1}, rule)
    ()
    """
    rates = sorted(losses)
    place = min(range(len(rates)), key=lambda one: losses[rates[one]])
    best = rates[place]
    if place == 0:
        wanted = [best * best / rates[1]]
    elif place == len(rates) - 1:
        wanted = [best * best / rates[-2]]
    else:
        beside = (rates[place - 1], rates[place + 1])
        wanted = [math.sqrt(best * one) for one in beside if max(best / one, one / best) > refine.to]
    return tuple(rate for one in wanted if (rate := float(f"{one:.3g}")) not in losses)


def _added(study: StudyConfig, arm: str, found: Sequence[Branch]) -> tuple[float, ...]:
    """What the rule adds to finished ends; nothing as long as they are not."""
    refine = study.tuning.refine
    if refine is None or not _is_whole(study, found):
        return ()
    losses = trial_losses(sweep_trials(found, study.pieces_folder), arm)
    left = refine.most - (len(losses) - len(study.tuning.rates))
    return next_rates(losses, refine)[: max(0, left)]


def _is_whole(study: StudyConfig, found: Sequence[Branch]) -> bool:
    return all(is_done(branch.piece, study.pieces_folder) for branch in found)


def _ends(study: StudyConfig, arm: str, rates: Sequence[float]) -> tuple[Branch, ...]:
    return tuple(
        branch
        for rate in rates
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
