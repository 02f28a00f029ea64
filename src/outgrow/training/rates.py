"""The learning rate of a whole staged run, before it starts: numbers for a table, points for a picture, and warnings.

Every stage is taken to use all its tokens; one that a trigger ends early only brings the growth forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from outgrow.run.config import RunConfig
from outgrow.run.reentry import EqualLossPosition, Ratio
from outgrow.training.course import Course, planned
from outgrow.training.stage_plans import StagePlan

_DECAYED = 0.99  # of the peak: below it, a growth is no longer in the stable part


@dataclass(frozen=True)
class StageRates:
    """One stage: tokens of the run and of the schedule, and learning rates."""

    name: str
    tokens: tuple[int, int]
    """Of the run, at the stage's begin and end."""
    position: tuple[int, int]
    """On the schedule, at the stage's begin and end."""
    schedule_tokens: int
    """Where the schedule ends."""
    peak: float
    first: float
    highest: float
    last: float
    note: str


def stage_rates(run: RunConfig, plans: Sequence[StagePlan]) -> tuple[StageRates, ...]:
    """One row per stage."""
    rows = []
    for course, plan in zip(planned(run, plans), plans, strict=True):
        first, last = course.now.first, course.last_step
        rates = [course.learning_rate(step) for step in _some(first, last, 200)]
        rows.append(
            StageRates(
                name=plan.name,
                tokens=(course.tokens(first), course.tokens(last)),
                position=(course.position(first), course.position(last)),
                schedule_tokens=course.total(),
                peak=plan.peak,
                first=rates[0],
                highest=max(rates),
                last=rates[-1],
                note=_note(run, course),
            )
        )
    return tuple(rows)


def rate_points(
    run: RunConfig, plans: Sequence[StagePlan], per_stage: int = 400
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """For each stage, (tokens of the run, learning rate) at so many steps."""
    return tuple(
        tuple(
            (course.tokens(step) + course.own.tokens_per_step // 2, course.learning_rate(step))
            for step in _some(course.now.first, course.last_step, per_stage)
        )
        for course in planned(run, plans)
    )


def rate_warnings(run: RunConfig, plans: Sequence[StagePlan]) -> tuple[str, ...]:
    """A warm-up that outlasts the run; growths after the learning rate has begun to decay: what the small model learns
    there is cheap to lose."""
    courses = planned(run, plans)
    found = []
    warmup, whole = run.schedule.warmup_tokens, courses[-1].total()
    if warmup >= whole:
        found.append(
            f"schedule.warmup_tokens {warmup:,} outlasts the run's {whole:,} tokens: the learning rate never reaches its peak"
        )
    for before, stage in zip(courses, run.stages[1:], strict=False):
        position, total = before.position(before.last_step), before.total()
        share = run.schedule.factor(position, total)
        if stage.grow is None or share >= _DECAYED or position <= run.schedule.warmup_tokens:
            continue
        fix = "use schedule.kind wsd, whose stable part lasts until the end is near"
        if run.schedule.kind == "wsd":
            fix = f"set schedule.decay_share to {int(100 * (1 - position / total)) / 100:g} or less"
        found.append(
            f"stage '{stage.name}' grows when the learning rate has decayed to {share:.0%} of its peak; "
            f"growing is best before the decay begins: {fix}"
        )
    return tuple(found)


def _note(run: RunConfig, course: Course) -> str:
    stage, notes = run.stages[course.stage], []
    position = stage.reentry.position
    if isinstance(position, EqualLossPosition):
        notes.append(f"position by {position.curve}, known at the growth; shown as kept")
    elif isinstance(position, Ratio):
        notes.append(f"position / {position.ratio:g}")
    elif position != "keep":
        notes.append(f"position {position}")
    if stage.reentry.rewarm_tokens:
        notes.append(f"re-warm-up over {stage.reentry.rewarm_tokens:,} tokens")
    if stage.reentry.peak != "keep":
        notes.append(f"peak {stage.reentry.peak}")
    if stage.until is not None:
        notes.append("may end early")
    return "; ".join(notes)


def _some(first: int, last: int, count: int) -> list[int]:
    """So many steps, evenly spread, the first and the last among them."""
    length = last - first
    if length <= count:
        return list(range(first, last))
    return sorted({first + place * (length - 1) // (count - 1) for place in range(count)})
