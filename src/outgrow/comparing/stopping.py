"""Arms that get no more seeds: one look, after as many seeds as the study declares, by one rule.

    d_i     = saving of seed i of an arm - that of the leading arm        each at its largest budget, seed by seed (`paired.py`)
    stopped   where the 90 % interval of d (Student's, over these seeds) lies below 0: it does not reach the leader

The leading arm has the largest mean. Arms from scratch are never stopped, they are what is measured with; an arm with a seed outside
its baseline's frontier has no saving there, so it neither leads nor is stopped. One look, so that nobody looks until it fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from outgrow.comparing.frontier import Frontier
from outgrow.comparing.intervals import SeedMean, mean_of_seeds
from outgrow.comparing.paired import paired_differences
from outgrow.comparing.pieces import all_pieces, branches, end_branches
from outgrow.comparing.ran import is_finished, ran
from outgrow.comparing.study import StudyConfig


@dataclass(frozen=True)
class StoppedArm:
    """An arm that got no more seeds, and why."""

    arm: str
    seeds: tuple[int, ...]
    """That it has."""
    leader: str
    difference: SeedMean
    """Of the two savings, seed by seed."""
    spared_tokens: int
    """Of pieces that nobody trains for it; one that two stopped arms share counts for the first."""


def behind(savings: Mapping[str, Sequence[float | None]]) -> tuple[str, dict[str, SeedMean]]:
    """The leading arm, and every arm whose interval of paired differences to it lies below 0; "" where no arm leads.

    >>> leader, found = behind({"a": [0.2, 0.22, 0.18], "b": [0.1, 0.11, 0.09], "c": [0.25, 0.1, 0.2], "d": [None, 0.1, 0.1]})
    >>> leader, list(found), round(found["b"].mean, 6)
    ('a', ['b'], -0.1)
    """
    known = {arm: [one for one in own if one is not None] for arm, own in savings.items() if None not in own}
    if not known:
        return "", {}
    leader = max(known, key=lambda arm: mean_of_seeds(known[arm]).mean)
    found = {
        arm: mean_of_seeds([mine - best for mine, best in zip(own, known[leader], strict=True)])
        for arm, own in known.items()
        if arm != leader
    }
    return leader, {arm: one for arm, one in found.items() if one.high is not None and one.high < 0}


def seeds_by_arm(study: StudyConfig, stopped: Sequence[StoppedArm]) -> dict[str, tuple[int, ...]]:
    """The seeds of every arm: the study's, or those before it was stopped."""
    return dict.fromkeys(study.arms, study.seeds) | {one.arm: one.seeds for one in stopped}


def stopped_arms(study: StudyConfig, rates: Mapping[str, float]) -> tuple[StoppedArm, ...]:
    """What the look comes to; nothing where none is declared, or its seeds are not all there yet."""
    if study.early_stop is None:
        return ()
    seeds = study.seeds[: study.early_stop.after]
    first = end_branches(study, rates, dict.fromkeys(study.arms, seeds))
    if not all(is_finished(piece, study.pieces_folder) for piece in all_pieces(first)):
        return ()
    scratch = [_frontier(study, study.baseline, seed, rates) for seed in seeds]
    savings = {
        arm: paired_differences([_frontier(study, arm, seed, rates) for seed in seeds], scratch)[-1].savings
        for arm, config in study.arms.items()
        if not config.is_scratch
    }
    leader, found = behind(savings)
    left = {arm: seeds if arm in found else study.seeds for arm in study.arms}
    counted = {piece.key for piece in all_pieces(end_branches(study, rates, left))}
    stopped = []
    for arm, difference in found.items():
        whole = all_pieces(end_branches(study, rates, {arm: study.seeds}))
        spared = [piece for piece in whole if piece.key not in counted]
        counted |= {piece.key for piece in spared}
        stopped.append(StoppedArm(arm, seeds, leader, difference, sum(piece.tokens for piece in spared)))
    return tuple(stopped)


def _frontier(study: StudyConfig, arm: str, seed: int, rates: Mapping[str, float]) -> Frontier:
    """Decayed losses over FLOPs of one seed, read from its pieces."""
    lines = [
        [ran(piece, study.pieces_folder) for piece in branch.piece.line]
        for branch in branches(study, arm, seed, rates[arm], study.arm_budgets(arm))
    ]
    compute = tuple(sum(one.flops for one in line) for line in lines)
    return Frontier(compute, (tuple(line[-1].loss for line in lines),))
