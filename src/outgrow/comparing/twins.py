"""The fair baseline of an arm that changes length or batch in mid-run: the baseline's model from scratch, with the same course.

course = where on the arm's tokens its steps begin to be other ones, and what they have of their own from there on
"""

from __future__ import annotations

from typing import Any

from outgrow.comparing.study import ArmConfig, StudyConfig

_Course = tuple[tuple[int, dict[str, Any]], ...]
"""(tokens before, what the steps from there on have of their own), wherever that changes."""


def course_of(arm: ArmConfig) -> _Course | None:
    """The course of an arm; None where a trigger ends a stage of it.

    >>> stages = [{"tokens": 64, "batch": {"sequences": 8}}, {"tokens": 64, "batch": {"sequences": 8}}, {}]
    >>> course_of(ArmConfig(model={"model_type": "llama"}, stages=stages))
    ((0, {'batch': {'sequences': 8}}), (128, {}))
    """
    tokens, found = 0, list[tuple[int, dict[str, Any]]]()
    for stage in arm.stages:
        if stage.until is not None:
            return None
        own = stage.own_steps()
        if not found or found[-1][1] != own:
            found.append((tokens, own))
        tokens += stage.tokens or 0
    return tuple(found)


def has_schedule(study: StudyConfig, arm: str) -> bool:
    """Whether steps of an arm read or compute otherwise than the baseline's."""
    baseline = study.arms[study.baseline].stages[0].own_steps()
    return any(stage.own_steps() != baseline for stage in study.arms[arm].stages)


def twin_of(study: StudyConfig, arm: str) -> str | None:
    """The arm from scratch that has the baseline's model and the course of an arm that grows; None where there is none.

    Where an arm has the baseline's own course there is nothing to be told apart.
    """
    course, arms = course_of(study.arms[arm]), study.arms
    if course is None or arms[arm].is_scratch or not has_schedule(study, arm):
        return None
    model = arms[study.baseline].model
    same = (
        name
        for name, one in arms.items()
        if one.is_scratch and one.model == model and course_of(one) == course
    )
    return next(same, None)
