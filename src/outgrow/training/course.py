"""The course of a run: where its stages begin, what they have cost so far, and the learning rate of every step.

    learning rate(stage, step) = peak * schedule.factor(position + tokens in the stage, total) * re-warm-up
    total                      = position + the tokens of this stage and of all later ones, as planned

A stage may end before its tokens are used, so where stages began and ended is not in the configuration: it is kept in the
run's pointer. Everything else is a pure function of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from outgrow.errors import ConfigError
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig
from outgrow.run.reentry import EqualLossPosition, Ratio, matched_tokens
from outgrow.run.schedule import learning_rate
from outgrow.training.folder import Begun, read_metrics
from outgrow.training.stage_plans import StagePlan


@dataclass(frozen=True)
class Course:
    """What is planned, and what has come of it. `begun` has an entry for every stage that has begun."""

    run: RunConfig
    plans: Sequence[StagePlan]
    begun: tuple[Begun, ...] = ()

    @property
    def stage(self) -> int:
        """The newest stage."""
        return len(self.begun) - 1

    @property
    def now(self) -> Begun:
        """The newest stage's begin and end."""
        return self.begun[-1]

    @property
    def finished(self) -> bool:
        """Whether the last stage is over."""
        return len(self.begun) == len(self.plans) and self.now.end is not None

    @property
    def last_step(self) -> int:
        """The step after which the newest stage is over, at the latest."""
        return self.now.first + self.plans[self.stage].steps

    def enter(self, step: int, loss: float | None = None) -> Course:
        """The next stage begins after a step; `loss` is what the model had there, for a position by a curve."""
        wanted = self.plans[len(self.begun)].position
        reached = self.position(step) if self.begun else 0
        if isinstance(wanted, EqualLossPosition):
            assert loss is not None, "a curve needs a loss"
            position = matched_tokens(read_curve(wanted), loss)
        elif isinstance(wanted, Ratio):
            position = round(reached / wanted.ratio)
        else:
            position = reached if wanted == "keep" else wanted
        return replace(self, begun=(*self.begun, Begun(step, position)))

    def ended(self, step: int) -> Course:
        """The newest stage is over after a step."""
        return replace(self, begun=(*self.begun[:-1], replace(self.now, end=step)))

    @property
    def own(self) -> RunConfig:
        """The run with the newest stage's own length and batch."""
        return self.run.at(self.stage)

    def stage_tokens(self, step: float) -> float:
        """Tokens of the newest stage up to a step of it."""
        return (step - self.now.first) * self.own.tokens_per_step

    def tokens(self, step: int) -> int:
        """Tokens of the run up to a step of the newest stage: each stage counts its steps by its own batch and length."""
        before = 0
        for place, (one, after) in enumerate(pairwise(self.begun)):
            before += (after.first - one.first) * self.run.at(place).tokens_per_step
        return before + round(self.stage_tokens(step))

    def position(self, step: float) -> int:
        """Tokens on the schedule after a step of the newest stage."""
        return self.now.position + round(self.stage_tokens(step))

    def total(self) -> int:
        """Tokens at which the schedule of the newest stage ends, if no later stage ends early."""
        return self.now.position + sum(plan.tokens for plan in self.plans[self.stage :])

    def learning_rate(self, step: int) -> float:
        """The rate of a step of the newest stage, at the step's middle token, so neither end of a ramp is a step of nothing."""
        return learning_rate(
            self.run.schedule,
            self.plans[self.stage].peak,
            self.now.position + self.stage_tokens(step + 0.5),
            self.total(),
            stage_start=self.now.position,
            rewarm_tokens=self.run.stages[self.stage].reentry.rewarm_tokens,
        )

    def flops(self, step: int) -> float:
        """FLOPs of the run up to a step of the newest stage, probes before stages included."""
        spent = 0.0
        for plan, one in zip(self.plans, self.begun, strict=False):
            spent += plan.probe_flops + plan.flops_after((step if one.end is None else one.end) - one.first)
        return spent


def planned(run: RunConfig, plans: Sequence[StagePlan]) -> tuple[Course, ...]:
    """The course at the begin of each stage, if every stage uses all its tokens; a position by a curve counts as kept."""
    course, courses = Course(run, plans), []
    for index, plan in enumerate(plans):
        kept = replace(plan, position="keep") if isinstance(plan.position, EqualLossPosition) else plan
        course = replace(course, plans=(*course.plans[:index], kept, *course.plans[index + 1 :]))
        course = course.enter(course.now.end or 0 if course.begun else 0)
        courses.append(course)
        course = course.ended(course.last_step)
    return tuple(courses)


def read_curve(curve: EqualLossPosition) -> list[tuple[float, float]]:
    """(tokens, validation loss) of a run's metrics.jsonl, in order; an error names the file."""
    path = expanded(curve.curve)
    if not path.is_file():
        raise ConfigError(f"reentry.position.curve: no such file: {path}")
    try:
        rows = [row for row in read_metrics(path) if row["kind"] == "validation" and row["tokens"] > 0]
        points = sorted((float(row["tokens"]), float(row["val_loss"])) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"reentry.position.curve: not a metrics.jsonl: {path}", got=repr(error)) from None
    if len(points) < 2:
        raise ConfigError(
            f"reentry.position.curve: too few validation losses in {path}",
            got=len(points),
            expected="at least 2",
            fix="set evaluation.every_tokens in the run that it comes from",
        )
    return points
