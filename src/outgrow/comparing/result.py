"""What a study came to: every decayed end with all that it cost, and the savings that are read off them.

FLOPs of an end   = Σ over its line of pieces
seconds of an end = Σ over its line of tokens · seconds per token of the piece's model + seconds of its growths
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import fmean
from typing import Any, Literal

import numpy as np

from outgrow.comparing.frontier import Frontier, FrontierSide, compute_at, least_compute
from outgrow.comparing.intervals import SeedMean
from outgrow.comparing.paired import PairedDifference, paired_differences
from outgrow.comparing.parts import NoParts, SavingParts, parts_of
from outgrow.comparing.readings import Optimality, optimality_of, saved_at
from outgrow.comparing.saving import EqualTokens, Saving, at_equal_tokens, savings
from outgrow.comparing.stopping import StoppedArm, seeds_by_arm
from outgrow.comparing.study import StudyConfig
from outgrow.comparing.twins import twin_of
from outgrow.comparing.worth import Worth, worth_of
from outgrow.training.result import machine

CostKind = Literal["flops", "seconds", "flops_sunk"]
"""What is saved: all FLOPs, all seconds, or FLOPs with the small stages taken as free ("sunk")."""


@dataclass(frozen=True)
class Point:
    """One decayed end: validation loss in nats, and all that was spent on it, the small stages and growth included."""

    arm: str
    seed: int
    rate: float
    budget: int
    loss: float
    accuracy: float | None
    """On the validation images; None for text."""
    tokens: int
    tokens_sunk: int
    """Without the small stages."""
    flops: float
    flops_sunk: float
    """Without the small stages."""
    undecayed_loss: float
    """At the end of the trunk that it branches from."""
    undecayed_flops: float
    """Up to there."""
    seconds: float
    parameters: int
    """Of the last model, without embeddings."""
    folder: str


@dataclass(frozen=True)
class SweepTrial:
    """One end of the sweep of learning rates."""

    arm: str
    seed: int
    rate: float
    budget: int
    loss: float
    """Infinite where it diverged."""


def trial_losses(trials: Iterable[SweepTrial], arm: str) -> dict[float, float]:
    """Rate -> mean loss over the seeds of the sweep; infinite where one diverged.

    >>> sweep = [SweepTrial("a", 0, 1e-3, 8, 3.0), SweepTrial("a", 1, 1e-3, 8, 3.5), SweepTrial("a", 0, 2e-3, 8, 2.5)]
    >>> trial_losses(sweep, "a")
    {0.001: 3.25, 0.002: 2.5}
    """
    found: dict[float, list[float]] = {}
    for trial in trials:
        if trial.arm == arm:
            found.setdefault(trial.rate, []).append(trial.loss)
    return {rate: fmean(losses) for rate, losses in found.items()}


@dataclass(frozen=True, repr=False)
class StudyResult:
    """What a study came to; `print` shows what every arm saves at its largest budget."""

    study: StudyConfig
    points: tuple[Point, ...]
    sweep: tuple[SweepTrial, ...]
    rates: Mapping[str, float]
    """The learning rate that was chosen for each arm."""
    sweep_flops: float
    """FLOPs of the sweeps alone; they are not part of any saving, and every arm had the same, or the same rule."""
    downstream: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """Arm -> score -> one value per seed, of the largest budget's last state."""
    trained_on: tuple[Mapping[str, Any], ...] = ()
    """The different machines and versions that trained the pieces."""
    stopped: tuple[StoppedArm, ...] = ()
    """Arms that the look of `early_stop` left with their first seeds; they are compared with the baseline's same seeds."""
    cautions: tuple[str, ...] = ()
    """What a reader should know before believing the numbers."""

    def __repr__(self) -> str:
        savings, seeds = self.savings(), len(self.study.seeds)
        arms = ", ".join(
            f"{arm} {'outside' if (last := savings[arm][-1].saving) is None else f'{100 * last:.1f} %'}"
            for arm in self.study.arms
            if arm != self.study.baseline
        )
        return f"StudyResult({self.study.title or self.study.output}: saved against {self.study.baseline}, {arms}; {seeds} seeds)"

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm was trained with."""
        return seeds_by_arm(self.study, self.stopped)[arm]

    def rates_tried(self, arm: str) -> tuple[float, ...]:
        """Of an arm's sweep, from small to large: the study's, and those that its rule added."""
        return tuple(sorted({*self.study.tuning.rates, *trial_losses(self.sweep, arm)}))

    def of(self, arm: str) -> dict[tuple[int, int], Point]:
        """The ends of an arm by seed and budget."""
        return {(point.seed, point.budget): point for point in self.points if point.arm == arm}

    def frontier(self, arm: str, cost: CostKind = "flops", seeds: Sequence[int] | None = None) -> Frontier:
        """Decayed losses of an arm over its cost, over some seeds or all; the cost is the mean over them."""
        own, budgets = self.of(arm), self.study.arm_budgets(arm)
        seeds = self.seeds_of(arm) if seeds is None else seeds
        return Frontier(
            tuple(float(np.mean([getattr(own[seed, budget], cost) for seed in seeds])) for budget in budgets),
            tuple(tuple(own[seed, budget].loss for budget in budgets) for seed in seeds),
        )

    def savings(self, cost: CostKind = "flops") -> dict[str, tuple[Saving, ...]]:
        """Every arm against the baseline, whose small stages are none: it always pays in full."""
        base = self.study.baseline
        return {
            arm: savings(self.frontier(arm, cost), self.frontier(base, cost, self.seeds_of(arm)))
            for arm in self.study.arms
        }

    def beside(self, cost: CostKind = "flops") -> dict[tuple[str, str], tuple[Saving, ...]]:
        """Every arm that grows against every other model from scratch than the baseline, over the seeds that both have."""
        arms, found = self.study.arms, {}
        for arm in (one for one in arms if not arms[one].is_scratch):
            for other in (one for one in self._others() if arms[one].is_scratch):
                seeds = [seed for seed in self.seeds_of(arm) if seed in self.seeds_of(other)]
                found[arm, other] = savings(
                    self.frontier(arm, cost, seeds), self.frontier(other, cost, seeds)
                )
        return found

    def savings_of_two_means(self) -> dict[str, tuple[Saving, ...]]:
        """FLOPs saved, with the interval that arms would have whose seeds have nothing in common."""
        base = self.study.baseline
        return {
            arm: savings(self.frontier(arm), self.frontier(base, seeds=self.seeds_of(arm)), paired=False)
            for arm in self._others()
        }

    def paired(self) -> dict[str, tuple[PairedDifference, ...]]:
        """Every arm but the baseline against it, seed by seed, in FLOPs."""
        base = self.study.baseline
        return {
            arm: paired_differences(
                self._by_seed(arm, self.seeds_of(arm)), self._by_seed(base, self.seeds_of(arm))
            )
            for arm in self._others()
        }

    def undecayed(self, arm: str, seeds: Sequence[int] | None = None) -> Frontier:
        """Losses before the decay over FLOPs, at the ends of the trunk; ends that several budgets share stand once."""
        own, seeds = self.of(arm), self.seeds_of(arm) if seeds is None else seeds
        rows = {
            float(np.mean([end.undecayed_flops for end in ends])): [end.undecayed_loss for end in ends]
            for budget in self.study.arm_budgets(arm)
            if (ends := [own[seed, budget] for seed in seeds])
        }
        return Frontier(tuple(rows), tuple(zip(*rows.values(), strict=True)))

    def undecayed_savings(self) -> dict[str, tuple[Saving, ...]]:
        """FLOPs saved at equal loss before the decay, a budget each: at the end of the trunk that it branches from."""
        found = {}
        for arm in self._others():
            own, scratch = self.undecayed(arm), self.undecayed(self.study.baseline, self.seeds_of(arm))
            at = dict(zip(own.compute, savings(own, scratch), strict=True))
            ends = [
                float(np.mean([self.of(arm)[seed, budget].undecayed_flops for seed in self.seeds_of(arm)]))
                for budget in self.study.arm_budgets(arm)
            ]
            found[arm] = tuple(at[end] for end in ends)
        return found

    def optimality(self) -> Optimality | None:
        """Where Staged Training would have stopped the baseline; None where its slope never comes there."""
        return optimality_of(self.undecayed(self.study.baseline))

    def saved_at_optimality(self) -> dict[str, SeedMean | None]:
        """FLOPs that each arm saves there, before the decay; None where a seed does not come to that loss."""
        at, base = self.optimality(), self.study.baseline
        if at is None:
            return dict.fromkeys(self._others())
        return {
            arm: saved_at(
                [self.undecayed(arm, [seed]) for seed in self.seeds_of(arm)],
                [self.undecayed(base, [seed]) for seed in self.seeds_of(arm)],
                at.loss,
            )
            for arm in self._others()
        }

    def parts(self, cost: CostKind = "flops") -> dict[str, tuple[SavingParts | NoParts, ...]]:
        """What the schedule saves and what the growth, of every arm whose schedule the baseline's model has too (`twins.py`)."""
        base, found = self.study.baseline, {}
        for arm in self._others():
            if (twin := twin_of(self.study, arm)) is not None:
                seeds = [seed for seed in self.seeds_of(arm) if seed in self.seeds_of(twin)]
                found[arm] = parts_of(*(self.frontier(one, cost, seeds) for one in (arm, twin, base)))
        return found

    def equal_tokens(self) -> dict[str, tuple[EqualTokens, ...]]:
        """Every arm against the baseline at equal tokens."""
        base = self.study.baseline
        return {
            arm: at_equal_tokens(
                self.frontier(arm),
                self._tokens(arm),
                self.frontier(base, seeds=self.seeds_of(arm)),
                self._tokens(base),
            )
            for arm in self.study.arms
        }

    def worths(self) -> dict[str, tuple[Worth | None, ...]]:
        """What the tokens of each arm's small stages are worth and cost, at every budget."""
        paid, sunk, base = self.savings("flops"), self.savings("flops_sunk"), self.study.baseline
        token = self.frontier(base).compute[-1] / self._tokens(base)[-1]
        return {
            arm: tuple(
                worth_of(one, without, whole - last, token)
                for one, without, whole, last in zip(
                    paid[arm], sunk[arm], self._tokens(arm), self._tokens(arm, "tokens_sunk"), strict=True
                )
            )
            for arm in self.study.arms
        }

    def scores(self, arm: str) -> dict[str, tuple[float, ...]]:
        """Downstream scores of an arm's largest budget, one value per seed; of images also the validation accuracy."""
        own, budget = self.of(arm), self.study.arm_budgets(arm)[-1]
        right = [own[seed, budget].accuracy for seed in self.seeds_of(arm)]
        found = tuple(value for value in right if value is not None)
        return {**({"accuracy": found} if found else {}), **self.downstream.get(arm, {})}

    def tokens_per_parameter(self, loss: float) -> float | None:
        """What the baseline has seen where it reaches a loss, per parameter without embeddings: where a saving is read off."""
        base, budgets = self.study.baseline, self.study.arm_budgets(self.study.baseline)
        frontier = self.frontier(base)
        compute, _ = compute_at(frontier.compute, frontier.mean(), loss)
        if compute is None:
            return None
        end = self.of(base)[self.study.seeds[0], budgets[-1]]
        # A token costs the baseline the same throughout.
        return compute / frontier.compute[-1] * end.tokens / end.parameters

    def any_size(self, loss: float) -> tuple[float | None, FrontierSide]:
        """The second baseline: FLOPs at which the best model from scratch of any size reaches a loss."""
        scratch = [self.frontier(arm) for arm, config in self.study.arms.items() if config.is_scratch]
        return least_compute(scratch, loss)

    def unread_sizes(self, loss: float) -> list[str]:
        """Arms from scratch that end above a loss for less than the second baseline needs: they may reach it for less yet."""
        best, _ = self.any_size(loss)
        scratch = {arm: self.frontier(arm) for arm, one in self.study.arms.items() if one.is_scratch}
        return [
            arm
            for arm, own in scratch.items()
            if best is not None and min(own.mean()) > loss and own.compute[-1] < best
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        costs: tuple[CostKind, ...] = ("flops", "seconds", "flops_sunk")
        return {
            "study": self.study.model_dump(mode="json"),
            "machine": machine(),
            "trained_on": [dict(one) for one in self.trained_on],
            "cautions": list(self.cautions),
            "rates": dict(self.rates),
            "stopped": [asdict(one) for one in self.stopped],
            "sweep_flops": self.sweep_flops,
            "points": [asdict(point) for point in self.points],
            "sweep": [
                {**asdict(one), "loss": one.loss if isfinite(one.loss) else None} for one in self.sweep
            ],
            "savings": {
                cost: {arm: [asdict(one) for one in found] for arm, found in self.savings(cost).items()}
                for cost in costs
            },
            "paired": {arm: [asdict(one) for one in found] for arm, found in self.paired().items()},
            "savings_of_two_means": {
                arm: [asdict(one) for one in found] for arm, found in self.savings_of_two_means().items()
            },
            "undecayed": {
                arm: [asdict(one) for one in found] for arm, found in self.undecayed_savings().items()
            },
            "optimality": (at := self.optimality()) and asdict(at),
            "saved_at_optimality": {
                arm: found and asdict(found) for arm, found in self.saved_at_optimality().items()
            },
            "parts": {
                cost: {arm: [asdict(one) for one in found] for arm, found in self.parts(cost).items()}
                for cost in costs[:2]
            },
            "equal_tokens": {
                arm: [asdict(one) for one in found] for arm, found in self.equal_tokens().items()
            },
            "worths": {arm: [one and asdict(one) for one in found] for arm, found in self.worths().items()},
            "read_at_tokens_per_parameter": {
                arm: [self.tokens_per_parameter(float(loss)) for loss in self.frontier(arm).mean()]
                for arm in self.study.arms
            },
            "beside": [
                {"arm": arm, "beside": other, "savings": [asdict(one) for one in found]}
                for (arm, other), found in self.beside().items()
            ],
            "any_size_flops": {
                arm: [self.any_size(float(loss))[0] for loss in self.frontier(arm).mean()]
                for arm in self.study.arms
            },
            "downstream": {arm: self.scores(arm) for arm in self.study.arms},
        }

    def _others(self) -> list[str]:
        return [arm for arm in self.study.arms if arm != self.study.baseline]

    def _by_seed(self, arm: str, seeds: Sequence[int]) -> list[Frontier]:
        """A frontier a seed."""
        return [self.frontier(arm, seeds=[seed]) for seed in seeds]

    def _tokens(self, arm: str, which: Literal["tokens", "tokens_sunk"] = "tokens") -> list[int]:
        """Mean over seeds: a trigger ends a stage early or late."""
        own, seeds = self.of(arm), self.seeds_of(arm)
        return [
            round(np.mean([getattr(own[seed, budget], which) for seed in seeds]))
            for budget in self.study.arm_budgets(arm)
        ]
