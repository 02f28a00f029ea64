"""What makes a study's numbers worth less than they look, in plain words.

A baseline below about 20 tokens per parameter without embeddings (arXiv 2203.15556) is not trained to its compute-optimal
length: there any small model is ahead, and a saving means nothing.
"""

from __future__ import annotations

import math
from statistics import stdev

from outgrow.comparing.result import StudyResult, trial_losses
from outgrow.comparing.rounding import rounded_far
from outgrow.comparing.twins import has_schedule, twin_of
from outgrow.text.numbers import counted

TOKENS_PER_PARAMETER = 20
_ENOUGH = 0.95 * TOKENS_PER_PARAMETER


def study_cautions(result: StudyResult) -> tuple[str, ...]:
    """One sentence for each; none where there is nothing to warn of."""
    checks = (
        _short_baseline,
        _early,
        _second_baseline,
        _no_twin,
        _rounded,
        _edges,
        _open_rates,
        _outside,
        _cut_intervals,
        _few_seeds,
        _stopped,
        _machines,
    )
    return tuple(sentence for check in checks for sentence in check(result))


def _trained(result: StudyResult) -> float:
    """Tokens per parameter of the baseline's largest budget; without a bound for images: the rule is about text."""
    study = result.study
    if "images" in study.common.get("data", {}):
        return math.inf
    point = result.of(study.baseline)[study.seeds[0], study.arm_budgets(study.baseline)[-1]]
    return point.tokens / point.parameters


def _short_baseline(result: StudyResult) -> list[str]:
    ratio = _trained(result)
    if ratio >= _ENOUGH:
        return []
    return [
        f"the baseline sees {ratio:.1f} tokens per parameter without embeddings, less than about {TOKENS_PER_PARAMETER}: "
        "so early a small model is ahead anyway, and these savings do not carry over to a full training"
    ]


def _early(result: StudyResult) -> list[str]:
    """A baseline that is trained long enough in the end, and savings that are read off before."""
    if not _ENOUGH <= _trained(result) < math.inf:
        return []
    furthest = {
        arm: max(
            (ratio for ratio in map(result.tokens_per_parameter, result.frontier(arm).mean()) if ratio),
            default=math.inf,
        )
        for arm, config in result.study.arms.items()
        if not config.is_scratch
    }
    words = ", ".join(f"{arm} {ratio:.1f}" for arm, ratio in furthest.items() if ratio < _ENOUGH)
    if not words:
        return []
    return [
        f"read off where the baseline has seen less than {TOKENS_PER_PARAMETER} tokens per parameter ({words}): "
        "so early savings are larger; give these arms larger budgets"
    ]


def _second_baseline(result: StudyResult) -> list[str]:
    """A small model from scratch is the rival of a growth at the growth's compute, if it was trained as long."""
    arms = result.study.arms
    most = {arm: max(result.frontier(arm).compute) for arm in arms}
    target = arms[result.study.baseline].model
    rivals = [arm for arm in arms if arms[arm].is_scratch and arms[arm].model != target]
    grown = [most[arm] for arm in arms if not arms[arm].is_scratch]
    if grown and not rivals:
        return [
            "no second baseline: a smaller model from scratch may do better than these arms for the same compute"
        ]
    return [
        f"'{arm}' from scratch was trained for {most[arm] / max(grown):.0%} of the FLOPs of the longest grown arm: "
        "whether it does better there is not known; give it larger budgets"
        for arm in rivals
        if grown and most[arm] < 0.95 * max(grown)
    ]


def _no_twin(result: StudyResult) -> list[str]:
    """An arm that reads otherwise than the baseline saves by that too, and nobody knows how much."""
    study = result.study
    alone = [
        arm
        for arm, config in study.arms.items()
        if not config.is_scratch and has_schedule(study, arm) and twin_of(study, arm) is None
    ]
    return [
        f"'{arm}' has a length, batch, precision or optimizer of its own, and the baseline's model has not been trained with the same: "
        f"what the growth saves apart from that is not known; add an arm {{schedule_of: {arm}}}"
        for arm in alone
    ]


def _rounded(result: StudyResult) -> list[str]:
    """Numbers are of what was trained; what was asked for may be another study."""
    return rounded_far(result.study)


def _edges(result: StudyResult) -> list[str]:
    tried = {arm: result.rates_tried(arm) for arm in result.rates}
    fewest = min(map(len, tried.values()))
    if fewest < 3:
        return [f"{counted(fewest, 'learning rate')} in the sweep: no arm can have its best inside the grid"]
    return [
        f"the best learning rate of '{arm}' is the {'smallest' if rate == tried[arm][0] else 'largest'} of the sweep ({rate:g}): "
        "the true best may lie beyond"
        for arm, rate in result.rates.items()
        if rate in (tried[arm][0], tried[arm][-1])
    ]


def _open_rates(result: StudyResult) -> list[str]:
    """The sweep's best rate is ahead of the next by less than the standard error of their difference: √(2 / n) · spread of a seed."""
    study = result.study
    words = []
    for arm in study.arms if len(study.seeds) > 1 else ():
        losses = trial_losses(result.sweep, arm)
        if len(losses) < 2:
            continue
        best, second = sorted(losses, key=lambda rate: losses[rate])[:2]
        place = study.arm_budgets(arm).index(study.tuning_budget(arm))
        spread = stdev(one[place] for one in result.frontier(arm).losses)
        error = (2 / len(study.tuning.seeds)) ** 0.5 * spread
        ahead = losses[second] - losses[best]
        if ahead < error:
            words.append(f"{arm} {best:g} over {second:g} by {ahead:.4f} ± {error:.4f} nats")
    if not words:
        return []
    return [
        f"the sweep does not settle the learning rate ({', '.join(words)}) and no interval here knows of that: "
        "name more in `tuning.seeds`"
    ]


def _outside(result: StudyResult) -> list[str]:
    return [
        f"'{arm}' has no saving at any budget: its losses lie outside the baseline's frontier"
        for arm, found in result.savings().items()
        if not result.study.arms[arm].is_scratch and all(one.saving is None for one in found)
    ]


def _cut_intervals(result: StudyResult) -> list[str]:
    """Draws of seeds whose loss has no place on the frontier are missing from an interval."""
    return [
        f"{1 - one.inside:.0%} of the draws of '{arm}' ({one.compute:.3g} FLOPs) lie outside the baseline's frontier: "
        "its interval is without them, and too narrow"
        for arm, found in result.savings().items()
        for one in found
        if not result.study.arms[arm].is_scratch and one.low is not None and one.inside < 0.95
    ]


def _few_seeds(result: StudyResult) -> list[str]:
    count = len(result.study.seeds)
    return (
        [f"{counted(count, 'seed')}: the intervals are wide or absent, three are the least"]
        if count < 3
        else []
    )


def _stopped(result: StudyResult) -> list[str]:
    return [
        f"'{one.arm}' got no more than {len(one.seeds)} of {len(result.study.seeds)} seeds, by the rule of early_stop: "
        "its numbers are of these, against the baseline's same seeds"
        for one in result.stopped
    ]


def _machines(result: StudyResult) -> list[str]:
    count = len(result.trained_on)
    if count <= 1:
        return []
    return [
        f"{count} different machines or versions trained the pieces: losses may differ by more than seeds do"
    ]
