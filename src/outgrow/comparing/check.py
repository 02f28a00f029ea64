"""What can be wrong with a study and be known before any training: every growth of every arm, and what is asked of the models after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from outgrow.comparing.downstream import check_downstream
from outgrow.comparing.pieces import arm_run
from outgrow.comparing.rounding import rounded_far
from outgrow.comparing.study import StudyConfig
from outgrow.errors import ConfigError, told_of
from outgrow.models.architecture import load_architecture
from outgrow.training.preflight import preflight
from outgrow.training.stage_plans import StagePlan

Plans = Mapping[str, Sequence[StagePlan]]
"""Arm -> what each of its stages is."""


def check_study(study: StudyConfig, say: Callable[[str], None]) -> Plans:
    """Check every arm as a run, without weights, and the downstream files; work out the models.

    Raises the first mistake. What is allowed and probably not wanted is said.
    """
    _check_folders(study)
    _check_objectives(study)
    plans = {}
    for arm in study.arms:
        found = preflight(arm_run(study, arm), headers_only=True, place=f"arm {arm}")
        for warning in found.warnings:
            say(f"warning: arm '{arm}': {warning}")
        plans[arm] = found.stages
    check_downstream(study, {arm: stages[-1].config for arm, stages in plans.items()})
    for sentence in rounded_far(study):
        say(f"warning: {sentence}")
    return plans


def _check_folders(study: StudyConfig) -> None:
    """Where things are to be written is no file."""
    for name, folder in (("output", study.output), ("pieces", study.pieces_folder)):
        if Path(folder).exists() and not Path(folder).is_dir():
            raise ConfigError(f"{name} is a file: {folder}", fix="choose another folder")


def _check_objectives(study: StudyConfig) -> None:
    """All arms learn the same: losses over hidden tokens and over the next one do not compare, even on one text."""
    found: dict[str, list[str]] = {}
    for arm, config in study.arms.items():
        with told_of(f"arm {arm}"):
            objective = load_architecture(str(config.model["model_type"])).objective
        found.setdefault(objective, []).append(arm)
    if len(found) > 1:
        raise ConfigError(
            "the arms learn different things, so their losses do not compare",
            got="; ".join(f"{', '.join(arms)}: {objective}" for objective, arms in found.items()),
            expected="one objective for all arms: that of their model_type",
            fix="make them studies of their own",
        )
