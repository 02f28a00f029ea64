"""What can be wrong with a study and be known before any training: every growth of every arm, and what is asked of the models after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from outgrow.comparing.downstream import check_downstream
from outgrow.comparing.pieces import arm_run
from outgrow.comparing.study import StudyConfig
from outgrow.training.preflight import preflight
from outgrow.training.stage_plans import StagePlan

Plans = Mapping[str, Sequence[StagePlan]]
"""Arm -> what each of its stages is."""


def check_study(study: StudyConfig, say: Callable[[str], None]) -> Plans:
    """Check every arm as a run, without weights, and the downstream files; work out the models.

    Raises the first mistake. What is allowed and probably not wanted is said.
    """
    plans = {}
    for arm in study.arms:
        found = preflight(arm_run(study, arm), headers_only=True)
        for warning in found.warnings:
            say(f"warning: arm '{arm}': {warning}")
        plans[arm] = found.stages
    check_downstream(study, {arm: stages[-1].config for arm, stages in plans.items()})
    return plans
